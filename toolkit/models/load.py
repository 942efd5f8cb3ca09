"""Load an encoder of one of the families, or its image processor."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from packaging import version
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import WHOLE_FOLDER, Source, refuse_adapter, tensors_in, weight_files
from toolkit.models.encoder import Encoder
from toolkit.models.families.family import Family
from toolkit.models.families.registry import DESCRIBED, family_of_type
from toolkit.models.hub import hub_once
from toolkit.models.image_processor import open_processor
from toolkit.models.image_size import at_image_size, at_output_size, check_image_size
from toolkit.models.tensor_files import listed, not_finite
from toolkit.models.tower_check import TowerCheck, no_projection
from toolkit.recipe.model import Embedding
from toolkit.user_paths import remote

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
HUB_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
"""A model's page, with its identifier."""
EMBEDDED = "tiny-clip"
"""Name of the encoder that ships with the package."""


def load_encoder(
    source: str, embedding: Embedding = "projected", image_size: int | None = None, revision: str | None = None
) -> Encoder:
    """Load a pre-trained vision encoder in float32, every tensor of it from the checkpoint.

    Args:
        source: ``tiny-clip``, a folder that ``save_pretrained`` wrote, or a hub identifier.
        embedding: what the encoder is to give.
        image_size: side of the images that it is to take, in pixels; the checkpoint's own if left out.
        revision: of a hub identifier.

    Raises:
        ToolkitError: nothing there, the hub out of reach, a family that isn't supported, or a checkpoint that
            does not fill the encoder: names, shapes or types that differ, values that are not finite; an image size
            that patches do not cover, or a revision of what has none.
    """
    place = source_of(source, revision)
    with quiet_transformers(), in_words(place), hub_once(place) as silence:
        refuse_adapter(place)
        family, tower = _empty_tower(place, embedding)
        if image_size is not None:
            check_image_size(tower.config, image_size)
        if embedding == "projected" and not hasattr(tower, family.projection_name or "forward"):
            raise no_projection("config.json says so", family, place)
        check = TowerCheck(family, tower, tensors_in(weight_files(place), place), place, DESCRIBED.values())
        fit, model_class = check.fit(), family.model_class(tower.config, embedding)
        model, report = model_class.from_pretrained(
            place.location,
            revision=place.revision or "main",
            config=tower.config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            key_mapping=fit.key_mapping or None,
            **family.model_arguments,
        )
    _check_report(report, check)
    _check_values(model, place)
    notes = [note for note in (silence, fit.note) if note]
    native = getattr(model.config, "image_size", None)
    if image_size is not None and not family.any_size and image_size != native:
        model = at_image_size(model, family, image_size)
        notes.append(f"positions for {native} x {native} pixels are interpolated to {image_size} x {image_size}")
    return Encoder(family, model, tuple(notes))


def load_processor(source: str, family: Family, image_size: int | None = None, revision: str | None = None) -> Any:
    """The family's Pillow image processor with the encoder's own settings.

    transformers prefers torchvision's processors and falls back with a warning; asking for
    the Pillow class by name gives the same pixels with and without torchvision.

    Args:
        source: as :func:`load_encoder` takes it.
        family: the encoder's.
        image_size: side of the images that it is to give, in pixels; its own if left out.
        revision: of a hub identifier.

    Raises:
        ToolkitError: no processor there, or another family's.
    """
    place = source_of(source, revision)
    with quiet_transformers(), in_words(place), hub_once(place):
        processor = open_processor(place, family)
    return processor if image_size is None else at_output_size(processor, image_size)


def source_of(name: str, revision: str | None = None) -> Source:
    """An encoder's files, of a revision where there are several.

    Raises:
        ToolkitError: no such folder, or a revision of what is none of the hub's.
    """
    place = Source(name, resolve(name), revision=revision)
    if revision is not None and place.folder is not None:
        fix = "leave the revision out, or name an encoder of the hub"
        raise ToolkitError(f"{name} has no revisions", where=f"model.revision: {revision}", fix=fix)
    return place


def resolve(source: str) -> str:
    """A folder's path, or the hub identifier unchanged."""
    if source == EMBEDDED:
        return str(files("toolkit") / "assets" / "tiny-clip")
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    page = HUB_PAGE.match(source)
    if page or remote(source):
        fix = f"write {page[1]}" if page else f"give a folder or a hub identifier, or use {EMBEDDED}"
        raise ToolkitError(remote(source) or "that is a page", where=f"model.encoder: {source}", fix=fix)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ToolkitError("no such encoder folder", where=source, fix=f"check model.encoder, or use {EMBEDDED}")
    return source


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep loading reports, retries and progress bars off the user's terminal."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


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


def _check_report(report: dict[str, Any], check: TowerCheck) -> None:
    """Refuse what transformers itself did not fill from the file, in case it reads names otherwise than we do."""
    reshaped = [str(entry[0]) for entry in report["mismatched_keys"]]
    left_over = [name for name in report["unexpected_keys"] if check.belongs(name)]
    names = sorted({*report["missing_keys"], *reshaped, *left_over})
    if names or report["error_msgs"]:
        said = listed(names or [" ".join(text.split()) for text in report["error_msgs"]])
        what = f"transformers did not fill the encoder from the checkpoint: {said}"
        fix = "save the encoder anew with save_pretrained, by the version of transformers that is installed here"
        raise ToolkitError(what, where=check.source.where, fix=fix)


def _check_values(model: nn.Module, place: Source) -> None:
    bad = not_finite(model.state_dict())
    if bad:
        what = f"{len(bad)} tensors hold values that are not finite (NaN or infinity): {listed(bad)}"
        raise ToolkitError(what, where=place.where, fix="give a checkpoint from before the training broke down")


@contextmanager
def in_words(place: Source) -> Iterator[None]:
    """Turn what the libraries raise over a user's files into an error that says so."""
    try:
        yield
    except MALFORMED as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        fix = (
            "copy the folder again; it needs config.json, model.safetensors and preprocessor_config.json"
            if place.folder
            else f"check the name and the network{offline}, download it first and give the folder, or use {EMBEDDED}"
        )
        raise ToolkitError(f"can't load the encoder: {reason}", where=place.where, fix=fix) from error
