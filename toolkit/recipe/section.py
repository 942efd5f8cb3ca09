"""What the sections of a recipe have in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic.fields import FieldInfo

from toolkit.user_paths import remote

Share = Annotated[float, Field(ge=0, lt=1)]


def is_none(value: Any) -> bool:
    """Whether a key is left out of resolved recipes: what none of them says changes no byte of what is made of them."""
    return value is None


def absolute_path(value: Path) -> Path:
    """The path from the root: a run outlives the folder it was started in."""
    reason = remote(value)
    if reason and not value.exists():
        raise ValueError(reason)
    try:
        return value.expanduser().absolute()
    except RuntimeError as error:  # ~nobody-of-this-name
        raise ValueError(str(error)) from error


class Section(BaseModel):
    """A part of a recipe; immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        """Its fields as recipes write them: ``class`` is no name that a field of Python may have."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the smaller of {value[0]:g} and {value[1]:g} comes first")
    return value


Range = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ordered)]
"""Two positive numbers, the smaller one first."""


def _black_and_white(value: Any) -> tuple[float, float]:
    try:
        black, white = map(float, value)
    except (TypeError, ValueError):
        black = white = 0.0
    if isinstance(value, str) or not -math.inf < black < white < math.inf:
        raise ValueError("black and then white, two finite numbers, such as [0, 4095]")
    return black, white


ValueRange = Annotated[tuple[float, float], BeforeValidator(_black_and_white)]
"""Black and white."""
