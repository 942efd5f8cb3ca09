"""How plots and pages name what they are of."""

from __future__ import annotations


def images_of(split: str, count: int) -> str:
    """So many images of a split, or of all."""
    return f"{count:,} images" if split == "all" else f"{count:,} {split} images"
