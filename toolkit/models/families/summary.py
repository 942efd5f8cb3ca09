"""What the families are, for a person who chooses one."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.models.families.family import Family
from toolkit.models.families.registry import DESCRIBED
from toolkit.models.families.traced import Traced
from toolkit.runtime.precision import SPECS


@dataclass(frozen=True)
class FamilySummary:
    """A family in words."""

    name: str
    model_types: list[str]
    example: str
    precisions: list[str]
    zero_shot: bool
    """Whether its text tower makes classifiers of names."""
    sizes: str
    """Of images that its encoders take."""


def families() -> list[FamilySummary]:
    """The described families, and the traced form of all others last."""
    described = [
        FamilySummary(
            family.name,
            sorted(family.model_types),
            family.example,
            precisions_of(family),
            family.text_model_class is not None,
            sizes_of(family),
        )
        for family in DESCRIBED.values()
    ]
    traceable = [name for name, spec in SPECS.items() if not spec.needs_description]
    return [*described, FamilySummary(Traced.kind, ["any other"], Traced.example, traceable, False, "its processor's")]


def precisions_of(family: Family) -> list[str]:
    """Those that encoders of a family are exported in."""
    return [name for name, spec in SPECS.items() if not (isinstance(family, Traced) and spec.needs_description)]


def sizes_of(family: Family) -> str:
    """Of images that encoders of a family take, in words."""
    if isinstance(family, Traced):
        return "its processor's"
    if not family.any_size:
        return "the checkpoint's"
    return "squares of any multiple of the patch" if family.square_only else "any multiple of the patch"
