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
from torch import nn
from transformers.utils import logging as transformers_logging

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import Source
from toolkit.models.encoder import Encoder
from toolkit.models.examine import MALFORMED, examine
from toolkit.models.families.family import Family
from toolkit.models.hub import hub_once
from toolkit.models.image_processor import open_processor
from toolkit.models.image_size import at_image_size, at_output_size
from toolkit.models.tensor_files import listed, not_finite
from toolkit.models.tower_check import TowerCheck
from toolkit.recipe.model import Embedding
from toolkit.user_paths import remote

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
        examined = examine(place, embedding, image_size)
        family, config, fit = examined.family, examined.tower.config, examined.fit
        model, report = family.model_class(config, embedding).from_pretrained(
            place.location,
            revision=place.revision or "main",
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            key_mapping=fit.key_mapping or None,
            **family.model_arguments,
        )
    _check_report(report, examined.check)
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
