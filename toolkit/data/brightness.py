"""Which images of a data set are darker or flatter than the rest, and whether all of them decode to almost nothing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from toolkit.data.value_ranges import Found
from toolkit.runtime.samples import Samples
from toolkit.runtime.value_range import Range

SHARES = (0.001, 0.01, 0.99, 0.999)
"""Of an image's pixels, that are darker than the values that are kept."""
SIDE = 128
"""Pixels of a side that are looked at."""
LESS = 1 / 4
"""Of the median image's brightness or contrast: what counts as darker or flatter."""
BAND = 16
"""Grey levels that almost nothing lies within: what values of 12 bits become if they are taken for 16."""
NEARLY_ALL = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of an image's grey below which the ``SHARES`` of its pixels lie."""

    values: tuple[float, ...]
    plain: bool
    """Whether all pixels have the same colour."""


def spread_of(image: Image.Image) -> Spread:
    """Of 8-bit pixels."""
    small = image.resize((min(image.width, SIDE), min(image.height, SIDE)), Image.Resampling.NEAREST)
    counts = np.cumsum(small.convert("L").histogram())
    plain = all(low == high for low, high in _bands(small))
    return Spread(tuple(map(float, np.searchsorted(counts, [share * counts[-1] for share in SHARES]))), plain)


def spread_of_samples(samples: Samples) -> Spread:
    """Of values of more than 8 bits; colours by their mean."""
    height, width = samples.values.shape[:2]
    small = samples.values[:: -(-height // SIDE), :: -(-width // SIDE)]
    grey = np.sort((small.mean(-1) if small.ndim == 3 else small).ravel())
    plain = bool((small == small[0, 0]).all())
    return Spread(tuple(float(grey[int(share * (len(grey) - 1))]) for share in SHARES), plain)


def _bands(image: Image.Image) -> Any:
    extremes: Any = image.getextrema()
    return extremes if isinstance(extremes[0], tuple) else [extremes]


class Brightness:
    """Collects the spread of images; 18 bytes an image."""

    def __init__(self) -> None:
        self._values, self._plain = array("f"), array("b")
        self._raw = array("b")
        """0: grey levels, 1: values to be scaled, -1: the same, and the smallest is white."""

    def add(self, spread: Spread, found: Found | None, given: Range | None) -> None:
        """Note an image of the data set, whose range is its own if its format says so and none is ``given``."""
        values, raw = spread.values, 0
        if found is not None:
            raw = -1 if found.inverted else 1
            if found.fixed and found.stated and given is None:
                values = tuple(_levels(np.array([values]), found.stated, np.array([raw]))[0])
                raw = 0
        self._values.extend(values)
        self._plain.append(spread.plain)
        self._raw.append(raw)

    def levels(self, value_range: Range | None) -> npt.NDArray[np.float64]:
        """Grey levels [images, shares]; NaN where the range of an image of more than 8 bits is not known."""
        values = np.array(self._values, np.float64).reshape(-1, len(SHARES))
        raw = np.array(self._raw)
        if value_range is None:
            values[raw != 0] = np.nan
        else:
            values[raw != 0] = _levels(values[raw != 0], value_range, raw[raw != 0])
        return values

    def unlike_the_rest(self, value_range: Range | None) -> tuple[list[int], list[int]]:
        """Places of the images that are darker, and of those that are flatter, than a quarter of the median image.

        Brightness is the level that 99 % of the pixels are below; contrast is what lies between 1 and 99 %.
        """
        levels = self.levels(value_range)
        brightness, contrast = levels[:, 2], levels[:, 2] - levels[:, 1]
        return self._below(brightness), self._below(contrast)

    def _below(self, metrics: npt.NDArray[np.float64]) -> list[int]:
        known = metrics[~np.isnan(metrics)]
        limit = LESS * np.median(known) if len(known) else 0
        places: list[int] = np.flatnonzero(metrics < limit).tolist()
        return places

    def almost_nothing(self, value_range: Range | None) -> str | None:
        """A sentence if nearly all images lie within the same few grey levels, but for 0.2 % of their pixels.

        Images of a single colour that is neither black nor white are what somebody wanted.
        """
        levels = self.levels(value_range)
        dark, bright = levels[:, 0], levels[:, -1]
        wanted = np.array(self._plain, bool) & (bright > 0) & (dark < 255)
        narrow = (bright - dark <= BAND) & ~wanted
        least = NEARLY_ALL * len(levels)
        if not len(levels) or narrow.sum() < least:
            return None
        for start in range(256 - BAND):
            inside = int((narrow & (dark >= start) & (bright <= start + BAND)).sum())
            if inside >= least:
                return (
                    f"the images decode to almost nothing: {inside:,} of {len(levels):,} lie between the grey levels "
                    f"{start} and {start + BAND} of 255, but for 0.2 % of their pixels"
                )
        return None


def _levels(values: npt.NDArray[Any], value_range: Range, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    low, high = value_range
    levels = (np.clip(values.astype(np.float64), low, high) - low) * 255 / (high - low)
    levels[raw < 0] = 255 - levels[raw < 0, ::-1]
    return levels
