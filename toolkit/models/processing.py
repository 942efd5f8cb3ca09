"""The bridge from transformers' image processors to the runtime's preprocessing."""

from __future__ import annotations

from typing import Any, get_args

from PIL import Image
from pydantic import ValidationError

from toolkit.errors import ToolkitError
from toolkit.runtime.preprocess import Preprocess, Resample
from toolkit.strict_json import reason_in


def preprocess_from(processor: Any, where: str | None = None) -> Preprocess:
    """Express a CLIP or SigLIP image processor as the runtime's :class:`Preprocess`.

    A run's processor also has a ``value_range``; see :func:`toolkit.models.build.build_classifier`.

    Args:
        processor: the image processor.
        where: what errors call it; its class, if left out.

    Raises:
        ToolkitError: the processor does something that the runtime can't, named.
    """
    where = where or type(processor).__name__
    if getattr(processor, "do_pad", None):
        raise ToolkitError("the image processor pads (do_pad)", where=where, fix="use a processor without do_pad")
    size = _sides(processor.size) if processor.do_resize else (1, 1)
    resample = Image.Resampling(processor.resample if processor.resample is not None else 2).name.lower()
    if resample not in get_args(Resample):
        raise ToolkitError(f"unknown resample filter {resample}", where=where, fix="use bicubic or bilinear")
    shortest = "shortest_edge" in _given(processor.size)
    try:
        return Preprocess(
            resize=None if not processor.do_resize else "shortest_edge" if shortest else "squash",
            size=size,
            resample=resample,
            crop=_sides(processor.crop_size) if getattr(processor, "do_center_crop", None) else None,
            rescale_factor=processor.rescale_factor if processor.do_rescale else None,
            mean=tuple(processor.image_mean) if processor.do_normalize else None,
            std=tuple(processor.image_std) if processor.do_normalize else None,
            value_range=getattr(processor, "value_range", None),
        )
    except ValidationError as error:
        raise ToolkitError(
            reason_in(error), where=where, fix="change preprocessor_config.json of the encoder"
        ) from error


def _given(size: Any) -> dict[str, int]:
    """The keys that a processor's size really sets."""
    return {key: value for key, value in dict(size).items() if value is not None}


def _sides(size: Any) -> tuple[int, int]:
    """[height, width] of a processor's size."""
    given = _given(size)
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"], given["shortest_edge"]
    if set(given) == {"height", "width"}:
        return given["height"], given["width"]
    raise ToolkitError(
        f"the image processor's size {given} can't be expressed",
        where="size",
        fix="use shortest_edge, or height and width",
    )
