"""How plots and pages name what they are of."""

from __future__ import annotations

ABOUT_TASK = {
    "ordinal": "They are in order, and the prediction is their median: at most half of the probability lies before it, "
    "and less than half beyond it.",
}
"""What a reader must know of a task beside its classes."""


def images_of(split: str, count: int) -> str:
    """So many images of a split, or of all."""
    return f"{count:,} images" if split == "all" else f"{count:,} {split} images"
