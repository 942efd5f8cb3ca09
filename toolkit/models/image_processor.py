"""An encoder's image processor, exactly as its file says: nothing is filled in from transformers' defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import Source
from toolkit.models.encoder import Encoder
from toolkit.models.families.family import Family
from toolkit.models.families.traced import Traced
from toolkit.models.processing import preprocess_from
from toolkit.runtime.preprocess import Preprocess

FILE, NESTED_IN = "preprocessor_config.json", "processor_config.json"
NEEDED = {
    "size": "do_resize",
    "resample": "do_resize",
    "crop_size": "do_center_crop",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}
"""Settings that a file has to state, unless it switches off what they are for."""


def open_processor(place: Source, family: Family) -> Any:
    """The family's Pillow image processor with the settings of a file.

    Args:
        place: where ``preprocessor_config.json`` lies, or ``processor_config.json`` with an ``image_processor`` in it.
        family: whose class reads it.

    Raises:
        ToolkitError: no file, another class's, one that leaves settings out, or settings that can't be expressed.
        OSError: the hub is out of reach.
    """
    processor_class = family.processor_class
    name = processor_class.__name__.removesuffix("Pil")
    arguments = ", ".join(f"{key}=..." for key, switch in NEEDED.items() if hasattr(processor_class, switch))
    write = f"write it anew: transformers.{processor_class.__name__}({arguments}).save_pretrained(FOLDER)"
    settings = settings_at(place)
    if settings is None:
        what = f"no {FILE} there, so nothing says how images become pixel values"
        raise ToolkitError(what, where=place.where, fix=f"copy the encoder's, or {write}")
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    other = str(kind).removesuffix("Fast").removesuffix("Pil") in family.processors_read
    own = (name, f"{name}Fast", f"{name}Pil", name.replace("ImageProcessor", "FeatureExtractor"))
    if not other and kind not in own:
        what = f"the image processor is a {kind}" if kind else "the image processor names no image_processor_type"
        raise ToolkitError(f"{what}, and {family.name} encoders take a {name}", where=place.where, fix=write)
    if other:
        settings = family.processor_settings(settings)
    lacking = [
        key
        for key, switch in NEEDED.items()
        if settings.get(switch, getattr(processor_class, switch, False)) and settings.get(key) is None
    ]
    if lacking:
        what = f"the image processor's file leaves out {', '.join(lacking)}"
        raise ToolkitError(what, where=place.where, fix=f"copy the encoder's {FILE}, or {write}")
    if other:
        processor = processor_class.from_dict({**settings, "image_processor_type": name})
    else:
        revision = place.revision or "main"
        processor = processor_class.from_pretrained(place.location, revision=revision, trust_remote_code=False)
    preprocess = preprocess_from(processor, place.where)  # refuses what is not finite, zeros and sizes that can't be
    if isinstance(family, Traced):
        _refuse_unlike(processor, preprocess, place)
    return processor


def _refuse_unlike(processor: Any, preprocess: Preprocess, place: Source) -> None:
    """Refuse a processor of an unknown kind that does anything else than its settings say to the toolkit.

    Raises:
        ToolkitError: the two give other pixels for an image that is wide, or one that is tall.
    """
    noise = np.random.default_rng(0).integers(0, 256, (2, 61, 83, 3), np.uint8)
    for pixels in (noise[0], noise[1].transpose(1, 0, 2)):
        image = Image.fromarray(pixels)
        theirs = processor(images=[image], return_tensors="np")["pixel_values"][0]
        if not np.array_equal(theirs, preprocess(image)):
            what = f"{type(processor).__name__} does more to an image than the toolkit can repeat"
            fix = "use a processor that resizes, crops, rescales and normalises alone"
            raise ToolkitError(what, where=place.where, fix=fix)


def check_output_size(processor: Any, encoder: Encoder, place: Source) -> None:
    """Refuse an image processor that gives another size than the encoder takes.

    Raises:
        ToolkitError: it does; with both sizes.
    """
    config = encoder.model.config
    side, patch = getattr(config, "image_size", None), getattr(config, "patch_size", 1)
    given = preprocess_from(processor).output_size
    if encoder.family.any_size:
        if given is None or (isinstance(patch, int) and any(pixels % patch for pixels in given)):
            what = f"the image processor gives {given} pixels, which patches of {patch} x {patch} don't cover"
            raise ToolkitError(what, where=place.where, fix=f"set the size in {FILE} to a multiple of {patch}")
        if encoder.family.square_only and given[0] != given[1]:
            shape = " x ".join(map(str, given))
            what = f"the image processor gives {shape} pixels, and {encoder.family.name} takes squares here"
            raise ToolkitError(what, where=place.where, fix=f"set model.image_size, or the size in {FILE}")
    elif given != (side, side):
        shown = " x ".join(str(pixels) for pixels in given or ())
        keys = "crop_size" if getattr(processor, "do_center_crop", None) else "size"
        raise ToolkitError(
            f"the image processor gives {shown} pixels, and the encoder has positions for {side} x {side}",
            where=place.where,
            fix=f"set {keys} to {side} in {FILE}, or use the encoder that was trained on {shown} pixels",
        )


def settings_at(place: Source) -> dict[str, Any] | None:
    """An image processor's settings, from the file that transformers would read them from."""
    nested = (place.json(NESTED_IN) or {}).get("image_processor")
    if nested is not None and not isinstance(nested, dict):
        what = f"{NESTED_IN} holds an image_processor that is no object"
        raise ToolkitError(what, where=place.where, fix=f"copy the encoder's {FILE}")
    return nested if nested is not None else place.json(FILE)
