"""Percentiles of latencies with intervals that respect their order in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.latency.bootstrap import bootstrap

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0, "p99_9_ms": 99.9}
CHUNK = 10
"""Shortest stretch of neighbours that is resampled as one, where there are ten of them: what disturbs a machine
lasts longer than one run."""
FEWEST_CHUNKS = 10
"""Stretches that a series is cut into at least, however long its runs resemble each other."""
WINDOW = 5.0
"""Correlation times over which the correlation is summed up (Sokal, 1997: 4 to 10)."""
Seconds = npt.NDArray[np.float64]


def percentiles(times: Sequence[float]) -> dict[str, Any]:
    """Percentiles in milliseconds, each with its 95 % interval; nothing is left out as an outlier.

    A percentile that fewer runs than ``1 / (1 - q)`` were counted for says no more than the longest run does;
    p99.9 is then None, and p99 stands with the interval that so few runs give.

    Args:
        times: seconds of runs, in the order in which they were counted.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p95_ms``, ``p99_ms``, ``p99_9_ms``, ``mean_ms``, ``max_ms`` and ``intervals``
        {name: [low, high]}, by a moving-block bootstrap (Künsch, 1989) whose blocks outlast the correlation of
        neighbours: near saturation, a queue makes many requests in a row slow.
    """
    milliseconds = np.asarray(times, np.float64) * 1000
    names, levels = list(PERCENTILES), list(PERCENTILES.values())
    block = chunk_length(milliseconds)
    low, high = bootstrap(milliseconds, lambda part: np.percentile(part, levels, axis=1), block=block)
    metrics: dict[str, Any] = dict(zip(names, np.percentile(milliseconds, levels).tolist(), strict=True))
    intervals: dict[str, Any] = {
        name: [float(at_least), float(at_most)] for name, at_least, at_most in zip(names, low, high, strict=True)
    }
    if len(milliseconds) < 1000:
        metrics["p99_9_ms"] = intervals["p99_9_ms"] = None
    return metrics | {
        "mean_ms": float(milliseconds.mean()),
        "max_ms": float(milliseconds.max()),
        "intervals": intervals,
    }


def chunk_length(values: Seconds) -> int:
    """Neighbours that a bootstrap must draw together: twice the integrated correlation time of the ranks.

    Ranks, so that one outlier can't hide that the rest move together. The sum of correlations ends at ``WINDOW``
    times what it has reached (Sokal, 1997), since what lies beyond is noise.
    """
    count = len(values)
    longest = max(1, count // FEWEST_CHUNKS)
    _, places, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]  # equal values share the mean of their ranks
    ranks -= ranks.mean()
    spectrum = np.abs(np.fft.rfft(ranks, 2 * count)) ** 2
    covariance = np.fft.irfft(spectrum)[:count]
    if covariance[0] <= 0:
        return max(1, min(CHUNK, longest))
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    reached = np.arange(count) >= WINDOW * times
    time = float(times[int(np.argmax(reached))] if reached.any() else times[-1])
    return max(1, min(max(CHUNK, round(2 * time)), longest))
