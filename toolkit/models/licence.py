"""The licence of an encoder: of the card that lies beside it, else what is known of its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from toolkit.models.checkpoint import Source
from toolkit.models.known_encoders import KNOWN, UNSURE
from toolkit.regular_files import read_settings
from toolkit.strict_yaml import StrictLoader

CARD = "README.md"
FENCE = "---"
"""What the metadata of a card stands between."""


@dataclass(frozen=True)
class Licence:
    """A hint; the page of the encoder decides."""

    name: str
    stated_in: str | None
    """Where it stands; None where nothing says it."""


def licence_of(place: Source, *, read_card: bool = True) -> Licence:
    """The licence of an encoder.

    Args:
        place: its files.
        read_card: whether its card is looked for.
    """
    said = _of_card(place) if read_card else None
    if said is not None:
        return Licence(said, CARD)
    known = KNOWN.get(place.name)
    if known is not None and known.licence != UNSURE:
        return Licence(known.licence, "toolkit encoders list")
    return Licence("see the page", None)


def _of_card(place: Source) -> str | None:
    """What the metadata of a card calls its licence: ``license_name`` where ``license`` is ``other``."""
    try:
        path = place.file(CARD)
        lines = read_settings(path).decode("utf-8", "replace").splitlines() if path else []
        if not lines or lines[0].strip() != FENCE:
            return None
        end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == FENCE)
        metadata: Any = yaml.load("\n".join(lines[1:end]), StrictLoader)
    except (OSError, ValueError, StopIteration, RecursionError, yaml.YAMLError):
        return None  # a card is for people; a damaged one costs the hint alone
    if not isinstance(metadata, dict):
        return None
    name = metadata.get("license")
    if name == "other":
        name = metadata.get("license_name") or name
    return name if isinstance(name, str) and name.strip() else None
