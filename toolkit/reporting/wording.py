"""How plots and pages name what they are of."""

from __future__ import annotations

from collections.abc import Callable

ABOUT_TASK = {
    "ordinal": "They are in order, and the prediction is their median: at most half of the probability lies before it, "
    "and less than half beyond it.",
}
"""What a reader must know of a task beside its classes."""


def images_of(split: str, count: int) -> str:
    """So many images of a split, or of all."""
    return f"{count:,} images" if split == "all" else f"{count:,} {split} images"


def temperature_in_words(value: float | list[float] | None, written: Callable[[float], str]) -> str:
    """A temperature of all classes, or the range of those of each label."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return written(value)
    low, high = min(value), max(value)
    return (
        f"{written(low)}, the same for all labels" if low == high else f"{written(low)} to {written(high)}, one a label"
    )
