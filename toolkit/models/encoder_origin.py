"""Where an encoder comes from and under which licence, as a bundle keeps it."""

from __future__ import annotations

from pathlib import Path

from toolkit.models.checkpoint import Source
from toolkit.models.known_encoders import KNOWN
from toolkit.models.licence import licence_of
from toolkit.recipe.model import ModelConfig


def encoder_origin(config: ModelConfig, family: str) -> dict[str, str | None]:
    """Its family, its page on the hub and its licence, each None where its folder or its name tells none.

    Args:
        config: the section ``model`` of a recipe.
        family: of the encoder that was loaded.
    """
    place = Source(config.encoder, str(Path(config.encoder).expanduser()), revision=config.revision)
    licence = licence_of(place, read_card=place.folder is not None)  # the hub is not asked
    return {"family": family, "page": _page(place), "licence": licence.name if licence.stated_in else None}


def _page(place: Source) -> str | None:
    if place.name in KNOWN:
        return KNOWN[place.name].page
    is_name = place.name.count("/") == 1 and not place.name.startswith(("/", ".", "~"))
    return f"https://huggingface.co/{place.name}" if is_name and place.folder is None else None
