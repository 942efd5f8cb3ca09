"""The values of an image of more than 8 bits as its file holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from toolkit.runtime.value_range import FULL, Range, grey_levels, number, range_by_rule


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of an image, upright or not as Pillow has it."""

    values: npt.NDArray[Any]
    """[height, width], or [height, width, 3] of colours."""
    kind: str
    """In words, such as ``16-bit``."""
    stated: Range | None = None
    """What the file says is black and white; None where it says nothing, or what its values contradict."""
    fixed: bool = False
    """Whether the statement belongs to the format (12-bit TIFF), so that it holds for this file whatever others say."""
    inverted: bool = False
    """Whether the smallest value is white."""
    opacity: npt.NDArray[np.uint8] | None = None

    @property
    def whole_numbers(self) -> bool:
        """Whether the values are integers."""
        return bool(self.values.dtype.kind in "iu")

    def extremes(self) -> Range:
        """The smallest and the largest value.

        Raises:
            ValueError: one of them is no finite number.
        """
        low, high = float(self.values.min()), float(self.values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinity among its values")
        return low, high

    def own_range(self) -> Range:
        """The range of the file alone: what it states, else by the rule.

        Raises:
            ValueError: no rule fits, or a value is no finite number.
        """
        low, high = self.extremes()
        found = self.stated or range_by_rule(low, high, whole_numbers=self.whole_numbers)
        if found is None:
            raise ValueError(
                f"values from {number(low)} to {number(high)} ({self.kind}) have no defined scale; "
                "a classifier trained with data.value_range=[low, high] has one"
            )
        return found

    def to_image(self, value_range: Range) -> Image.Image:
        """8-bit pixels of mode L, RGB, LA or RGBA."""
        if self.values.ndim == 3 and value_range == FULL:
            levels = (self.values >> 8).astype(np.uint8)  # as Pillow and transformers have it
        else:
            if not self.whole_numbers:
                self.extremes()
            levels = grey_levels(self.values, value_range)
        image = Image.fromarray(255 - levels if self.inverted else levels)
        if self.opacity is not None:
            image.putalpha(Image.fromarray(self.opacity))
        return image
