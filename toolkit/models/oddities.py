"""What is unusual about a checkpoint, in words: what is converted, left alone, or not as its family has it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import PICKLES, Source
from toolkit.models.encoder import Encoder
from toolkit.models.examine import Examined, configuration
from toolkit.models.families.family import Family
from toolkit.models.image_processor import FILE, NESTED_IN, check_output_size, settings_at
from toolkit.models.processing import preprocess_from
from toolkit.models.tensor_files import listed
from toolkit.models.text_encoder import in_text_tower
from toolkit.runtime.preprocess import Preprocess

IN_WORDS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""What safetensors calls types, as precisions are called here."""
OLD_END = 2
"""The id that ends a text in CLIP's older configurations, by mistake."""


def stored_types(examined: Examined) -> dict[str, int]:
    """How many of the encoder's tensors a checkpoint holds in each type."""
    tensors, found = examined.check.tensors, examined.check.found
    kinds = Counter(tensors[name].dtype for names in found.values() for name in names)
    return {IN_WORDS.get(kind, kind): count for kind, count in kinds.most_common()}


def oddities(place: Source, examined: Examined, encoder: Encoder, processor: Any) -> list[str]:
    """Sentences about a checkpoint, the weights first.

    Args:
        place: its files.
        examined: what its headers say.
        encoder: its tower, which may lie on the meta device.
        processor: its image processor, or why there is none.
    """
    content = configuration(place)
    family = examined.family
    found = [
        *_weights(place, examined, encoder),
        *_texts(content, family, any(in_text_tower(name, family) for name in examined.check.tensors)),
    ]
    if "auto_map" in content:
        found.append("config.json names code of its own (auto_map), which is not run")
    if isinstance(processor, ToolkitError):
        return [*found, f"no image processor that can be used: {processor.what}"]
    return [*found, *_processor(place, family, preprocess_from(processor)), *_sizes(place, encoder, processor)]


def _weights(place: Source, examined: Examined, encoder: Encoder) -> Iterator[str]:
    if examined.fit.note:
        yield examined.fit.note
    types = stored_types(examined)
    others = {kind: count for kind, count in types.items() if kind != "fp32"}
    if others:
        stored = " and ".join(f"{count} in {kind}" for kind, count in others.items())
        yield f"the encoder's tensors are converted to fp32: of {sum(types.values())} are stored {stored}"
    used = {name for names in examined.check.found.values() for name in names}
    alone = Counter(_part(name, examined) for name in examined.check.tensors if name not in used)
    if alone:
        parts = ", ".join(f"{part} ({count})" for part, count in alone.most_common())
        yield f"{alone.total()} tensors beside the encoder's are left alone: {parts}"
    if examined.family.projection_name and encoder.embedding != "projected":
        name = examined.family.projection_name
        yield f"no projection ({name}): the embedding is what is pooled, by model.embedding=pooled"
    if place.folder is not None:
        pickles = sorted(path.name for path in place.folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            yield f"pickles lie beside the weights and are not read: {listed(pickles)}"


def _part(name: str, examined: Examined) -> str:
    """What a tensor is of that the encoder does not read."""
    if in_text_tower(name, examined.family):
        return "text tower"
    if name.endswith("position_ids"):
        return "position_ids"
    unread = next((each for each in examined.family.unread if name.endswith(each)), None)
    return unread or name.partition(".")[0]


def _texts(content: dict[str, Any], family: Family, has_texts: bool) -> Iterator[str]:
    """Token ids that don't fit, of a checkpoint whose texts CLIP's family reads."""
    text = content.get("text_config")
    if not has_texts or family.name != "clip" or not isinstance(text, dict):
        return
    end, words = text.get("eos_token_id"), text.get("vocab_size")
    if end == OLD_END:
        pad = text.get("pad_token_id")
        beside = f" (and pad_token_id {pad}, which nothing reads)" if pad is not None else ""
        yield (
            f"text_config has eos_token_id {OLD_END}{beside}, as CLIP's old configurations do by mistake: the token "
            "with the largest id is taken for a text's end"
        )
    elif isinstance(end, int) and isinstance(words, int) and end >= words:
        yield (
            f"text_config has eos_token_id {end} and a vocabulary of {words}, so no text has an end and its first "
            "token is taken"
        )


def _processor(place: Source, family: Family, preprocess: Preprocess) -> Iterator[str]:
    settings = settings_at(place) or {}
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    if kind.removesuffix("Fast").removesuffix("Pil") in family.processors_read:
        yield f"the settings of a {kind} are read by {family.processor_class.__name__}"
    if place.file(NESTED_IN) is not None and (place.json(NESTED_IN) or {}).get("image_processor") and place.file(FILE):
        yield f"two image processors lie there: {NESTED_IN} is read, {FILE} is not"
    for key, usual in family.usual_processor.items():
        value = getattr(preprocess, key)
        if value != usual and not _near(value, usual):
            yield f"the image processor's {key} is {_shown(value)}, where {family.name} encoders have {_shown(usual)}"


def _near(value: Any, usual: Any) -> bool:
    """Whether numbers are the same but for how many of their digits are written."""
    return (
        isinstance(value, tuple)
        and isinstance(usual, tuple)
        and all(math.isclose(one, other, abs_tol=1e-3) for one, other in zip(value, usual, strict=True))
    )


def _shown(value: Any) -> str:
    return ", ".join(f"{each:.4g}" for each in value) if isinstance(value, tuple) else str(value)


def _sizes(place: Source, encoder: Encoder, processor: Any) -> Iterator[str]:
    try:
        check_output_size(processor, encoder, place)
    except ToolkitError as error:
        yield f"{error.what}: {error.fix}"
        return
    trained, given = trained_side(encoder), preprocess_from(processor).output_size
    if trained is not None and given not in (None, (trained, trained)):
        assert given is not None
        shape = " x ".join(map(str, given))
        yield (
            f"positions were trained for {trained} x {trained} pixels, and are interpolated to the {shape} of the "
            "processor"
        )


def trained_side(encoder: Encoder) -> int | None:
    """Side in pixels of the square that an encoder of any size has positions for; None where they are computed."""
    config, tower = encoder.model.config, encoder.tower
    if tower is None or not encoder.family.any_size or tower.rotary is not None:
        return None
    patches = getattr(config, "num_patches", None)
    return math.isqrt(patches) * tower.patch_side if patches else int(config.image_size)
