"""The families this toolkit knows, and loading an encoder of one of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from toolkit.errors import ToolkitError
from toolkit.models.clip import Clip
from toolkit.models.encoder import Encoder, Family
from toolkit.models.siglip import Siglip

FAMILIES: dict[str, Family] = {family.name: family for family in (Clip(), Siglip())}
EMBEDDED = "tiny-clip"
"""Name of the encoder that ships with the package."""


def load_encoder(source: str) -> Encoder:
    """Load a pre-trained vision encoder in float32.

    Args:
        source: ``tiny-clip``, a folder that ``save_pretrained`` wrote, or a hub identifier.

    Raises:
        ToolkitError: nothing there, the hub out of reach, or a family that isn't supported.
    """
    location = resolve(source)
    with quiet_transformers():
        config = _load(AutoConfig, location, source)
        family = _family_of(config, source)
        options = {"config": family.vision_config(config), "dtype": torch.float32, "use_safetensors": True}
        model = _load(family.model_class, location, source, **options)
    return Encoder(family, model)


def load_processor(source: str, family: Family) -> Any:
    """The family's Pillow image processor with the encoder's own settings.

    transformers prefers torchvision's processors and falls back with a warning; asking for
    the Pillow class by name gives the same pixels with and without torchvision.
    """
    with quiet_transformers():
        return _load(family.processor_class, resolve(source), source)


def resolve(source: str) -> str:
    """A folder's path, or the hub identifier unchanged."""
    if source == EMBEDDED:
        return str(files("toolkit") / "assets" / "tiny-clip")
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
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


def _family_of(config: PretrainedConfig, source: str) -> Family:
    for family in FAMILIES.values():
        if config.model_type in family.model_types:
            return family
    known = ", ".join(sorted(FAMILIES))
    raise ToolkitError(
        f"no support for encoders of type {config.model_type!r}", where=source, fix=f"use one of: {known}"
    )


def _load(loader: Any, location: str, source: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(location, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        local = Path(location).is_dir()
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        fix = (
            "the folder needs config.json, model.safetensors and preprocessor_config.json"
            if local
            else f"check the name and the network{offline}, download it first and give the folder, or use {EMBEDDED}"
        )
        raise ToolkitError(f"can't load the encoder: {reason}", where=f"model.encoder: {source}", fix=fix) from error
