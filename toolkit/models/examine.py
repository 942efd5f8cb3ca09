"""A checkpoint before it is loaded: its configuration, its family, and whether its tensors fill the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from packaging import version
from transformers import AutoConfig, PreTrainedModel

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import WHOLE_FOLDER, Source, refuse_adapter, tensors_in, weight_files
from toolkit.models.families.family import Family
from toolkit.models.families.registry import DESCRIBED, family_of_type
from toolkit.models.image_size import check_image_size
from toolkit.models.tower_check import Fit, NoProjectionError, TowerCheck
from toolkit.recipe.model import Embedding

UNREADABLE = {
    "quantization_config": (
        "the weights are quantised",
        "give the encoder in fp32, fp16 or bf16; the export quantises (--precision int8)",
    ),
    "transformers_weights": (
        "the weights lie in a file of another name",
        "rename it to model.safetensors and remove the key",
    ),
}
"""Keys of a configuration that ask for what is not done here."""
COUNTS = ("num_hidden_layers", "hidden_size", "image_size", "patch_size")
MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers raises over files that are not as it expects."""


@dataclass(frozen=True)
class Examined:
    """A checkpoint that fills an encoder, before a value of it is read."""

    family: Family
    tower: PreTrainedModel
    """On the meta device."""
    check: TowerCheck
    fit: Fit


def examine(place: Source, embedding: Embedding, image_size: int | None = None) -> Examined:
    """Read a checkpoint's configuration and the headers of its weights; see :func:`load_encoder` for what is refused.

    Raises:
        NoProjectionError: the embedding is ``projected``, and there is no projection.
        OSError: the hub is out of reach.
    """
    refuse_adapter(place)
    family, tower = _empty_tower(place, embedding)
    if image_size is not None:
        check_image_size(tower.config, image_size)
    if embedding == "projected" and not hasattr(tower, family.projection_name or "forward"):
        raise NoProjectionError("config.json says so", family, place)
    check = TowerCheck(family, tower, tensors_in(weight_files(place), place), place, DESCRIBED.values())
    return Examined(family, tower, check, check.fit())


def _empty_tower(place: Source, embedding: Embedding) -> tuple[Family, PreTrainedModel]:
    """The family, and the model that gives the embedding as its configuration makes it, without values.

    Raises:
        ToolkitError: no configuration, or one that makes no encoder of a family.
        OSError: the hub is out of reach.
    """
    content = configuration(place)
    family = _family_of(content, place)
    if version.parse(transformers.__version__) < version.parse(family.oldest_transformers):
        what = f"{family.name} encoders need transformers {family.oldest_transformers} or newer"
        raise ToolkitError(what, where=place.where, fix=f"pip install 'transformers>={family.oldest_transformers}'")
    inner = content.get("vision_config")
    for key, (what, fix) in UNREADABLE.items():
        if content.get(key) or (isinstance(inner, dict) and inner.get(key)):
            raise ToolkitError(f"config.json has {key}: {what}", where=place.where, fix=fix)
    try:
        config = AutoConfig.from_pretrained(place.location, revision=place.revision, trust_remote_code=False)
        vision = family.vision_config(config, embedding)
        vision._attn_implementation = None  # a file must not choose the code that runs
        if min(getattr(vision, key, 1) for key in COUNTS) < 1:
            raise ValueError("layers, sizes and patches are at least 1")
        with torch.device("meta"):
            return family, family.model_class(vision, embedding)(vision, **family.model_arguments)
    except MALFORMED as error:
        reason = " ".join(str(error).split())
        fix = "use the config.json that the checkpoint was saved with"
        raise ToolkitError(f"config.json makes no encoder: {reason}", where=place.where, fix=fix) from error


def family_at(place: Source) -> Family:
    """The family that an encoder's configuration names.

    Raises:
        ToolkitError: no configuration, or one of no family.
        OSError: the hub is out of reach.
    """
    return _family_of(configuration(place), place)


def configuration(place: Source) -> dict[str, Any]:
    """The content of an encoder's ``config.json``.

    Raises:
        ToolkitError: there is none.
        OSError: the hub is out of reach.
    """
    content = place.json("config.json")
    if content is None:
        if place.folder is None:
            # says whether the hub is out of reach
            AutoConfig.from_pretrained(place.location, revision=place.revision, trust_remote_code=False)
        raise ToolkitError("no config.json there", where=place.where, fix=WHOLE_FOLDER)
    return content


def _family_of(content: dict[str, Any], place: Source) -> Family:
    kind = content.get("model_type")
    if not isinstance(kind, str):
        known = ", ".join(sorted(DESCRIBED))
        raise ToolkitError("config.json names no model_type", where=place.where, fix=f"use one of: {known}")
    for family in DESCRIBED.values():
        if kind in family.text_model_types:
            fix = f"give both towers, or the vision tower, such as {family.example}"
            raise ToolkitError(f"a text tower alone (model_type {kind!r})", where=place.where, fix=fix)
    found = family_of_type(kind)
    if found is None:
        known = ", ".join(sorted(DESCRIBED))
        what = f"no support for encoders of type {kind!r}"
        fix = f"use one of: {known}, or a vision encoder of transformers with an image processor of its own"
        raise ToolkitError(what, where=place.where, fix=fix)
    return found
