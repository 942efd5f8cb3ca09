"""What black and white are in images of more than 8 bits: the rule, and the scaling to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Range = tuple[float, float]
"""The values that become 0 and 255."""
WHITES = (255, 1023, 4095, 16383, 65535)
"""White of whole numbers: cameras and scanners of 8, 10, 12, 14 and 16 bits."""
FLOAT_WHITES = (1, 255)
"""White of floats."""
FULL: Range = (0.0, 65535.0)
BLOCK = 1 << 20
"""Values that are scaled at once, in float64."""


def range_by_rule(low: float, high: float, *, whole_numbers: bool) -> Range | None:
    """The range of values from ``low`` to ``high`` that nobody states: from 0 to the least white that holds them.

    None where no rule fits: below 0, or above the largest white.
    """
    whites = WHITES if whole_numbers else FLOAT_WHITES
    return next(((0.0, float(white)) for white in whites if low >= 0 and high <= white), None)


def range_in_words(value_range: Range) -> str:
    """A range as a recipe has it, such as ``[0, 4095]``."""
    return f"[{number(value_range[0])}, {number(value_range[1])}]"


def number(value: float) -> str:
    """A whole number with all of its digits, another one with six."""
    return f"{value:.0f}" if value == round(value) else f"{value:g}"


def grey_levels(values: npt.NDArray[Any], value_range: Range) -> npt.NDArray[np.uint8]:
    """Scale values of any shape to 0 to 255, rounded to the nearest; what lies outside of the range saturates."""
    if values.dtype == np.uint16:
        table = _scaled(np.arange(65536), value_range)
        return np.take(table, values)
    levels = np.empty(values.shape, np.uint8)
    rows = max(1, BLOCK // max(1, values[:1].size))
    for first in range(0, len(values), rows):
        levels[first : first + rows] = _scaled(values[first : first + rows], value_range)
    return levels


def _scaled(values: npt.NDArray[Any], value_range: Range) -> npt.NDArray[np.uint8]:
    low, high = value_range
    inside = np.clip(values.astype(np.float64), low, high)
    return np.rint((inside - low) * 255 / (high - low)).astype(np.uint8)
