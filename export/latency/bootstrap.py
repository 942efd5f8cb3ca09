"""Confidence intervals by resampling, of single values or of stretches of neighbours that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 1000
PART = 1 << 20
"""Resampled values that memory holds at once, unless one resample is larger."""
Values = npt.NDArray[np.float64]


def bootstrap(values: Values, statistic: Callable[[Values], Any], *, block: int = 1) -> tuple[Values, Values]:
    """The percentile interval of statistics of a series, by a moving-block bootstrap.

    Source: Efron, "Bootstrap methods" (1979); with blocks, Künsch, "The jackknife and the bootstrap for general
    stationary observations" (1989).

    Args:
        values: of the series [N], in their order.
        statistic: from resamples [some, N] to statistics [..., some].
        block: neighbours that are drawn together.

    Returns:
        Lower and upper bounds [...], with 95 % confidence.
    """
    resampled = np.concatenate([statistic(part) for part in _resamples(values, block)], axis=-1)
    low, high = np.percentile(resampled, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=-1)
    return low, high


def _resamples(values: Values, block: int) -> Iterator[Values]:
    """Resamples [some, N]: blocks of neighbours drawn with replacement, the ends joined.

    They come a part at a time, so that a million values take no more memory than a few resamples of them.
    """
    count = len(values)
    draws = -(-count // block)
    rng = np.random.default_rng(0)
    at_once = max(1, min(RESAMPLES, PART // count))
    for start in range(0, RESAMPLES, at_once):
        starts = rng.integers(0, count, (min(at_once, RESAMPLES - start), draws))
        places = (starts[:, :, None] + np.arange(block)).reshape(len(starts), -1)[:, :count] % count
        yield values[places]
