"""MLPerf's Offline scenario: throughput over growing batches, until it stops growing or memory ends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from export.latency.measure import BLOCKS, MinSamples, alternate
from export.latency.pool import Pool
from export.latency.runner import Runner
from toolkit.progress import SILENT, Progress
from toolkit.runtime.memory import (
    MIB,
    available_mib,
    is_allocation_failure,
    peak_resident_mib,
    reset_peak,
    resident_mib,
)

GAIN = 0.03
"""Relative growth of throughput over the best so far that still counts as growth."""
PATIENCE = 2
"""Steps in a row without growth that end the sweep."""
LARGEST = 1024
"""Images of the largest batch."""
SHARE = 0.9
"""Of the memory that is available, what a step may be expected to take."""
LEAST = MinSamples(runs=10, seconds=2.0)


def offline(
    engine: Runner,
    pool: Pool,
    least: MinSamples = LEAST,
    *,
    largest: int = LARGEST,
    available: Callable[[], float] = available_mib,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure batches of 1, 2, 4, ... images.

    A batch that does not fit in memory ends the sweep, as does one that would, by the growth of the steps before
    it, take more than is available: the system would kill the process.

    Args:
        engine: what to measure.
        pool: what the batches are drawn from.
        least: how much to count for each size.
        largest: images of the largest batch.
        available: MiB that the process may still take; None where nobody knows.
        progress: told how it goes on.

    Returns:
        ``rows`` of ``latency.json``, each with ``peak_resident_mib``; ``best_ips``, the largest throughput, or
        None without a row; ``offline_end``, a sentence that says what ended the sweep.

    Raises:
        ToolkitError: no runs.
    """
    least.check()
    rows: list[dict[str, Any]] = []
    peaks: list[float] = []
    best, stale, batch_size = 0.0, 0, 1
    while True:
        needed, there = _needed_mib(pool, batch_size, peaks), available()
        if needed > SHARE * there:
            end = f"batch size {batch_size} was not tried: it takes about {needed:,.0f} MiB more, "
            end += f"and {there:,.0f} MiB are available"
            break
        try:
            row = _row(engine, pool, batch_size, least, progress)
        except Exception as error:
            if not is_allocation_failure(error):
                raise
            end = f"batch size {batch_size} does not fit in memory: {_last_line(error)}"
            break
        rows.append(row)
        peaks.append(row["peak_resident_mib"])
        grew = row["throughput_ips"] > (1 + GAIN) * best
        stale = 0 if grew else stale + 1
        best = max(best, row["throughput_ips"])
        if stale == PATIENCE:
            end = f"throughput stopped growing: {PATIENCE} steps, up to batch size {batch_size}, gained less than "
            end += f"{100 * GAIN:.0f} % each"
            break
        if 2 * batch_size > largest:
            end = f"batch size {batch_size} is the largest asked for, and throughput may still grow"
            break
        batch_size *= 2
    return {"rows": rows, "best_ips": best or None, "offline_end": end}


def _row(engine: Runner, pool: Pool, batch_size: int, least: MinSamples, progress: Progress) -> dict[str, Any]:
    reset_peak()
    (samples,) = alternate([engine], pool.batches(batch_size), least, blocks=min(BLOCKS, least.runs), progress=progress)
    peak = peak_resident_mib()
    return samples.row(batch_size) | {"scenario": "Offline", "peak_resident_mib": peak}


def _needed_mib(pool: Pool, batch_size: int, peaks: list[float]) -> float:
    """What the next size takes beyond what the process holds now.

    A step adds as many images as all steps before it, hence twice what the last one added; the first step also
    holds the graph's own memory and tells nothing. ONNX Runtime keeps what it took.
    """
    images = batch_size * pool.largest_bytes / MIB
    grown = [after - before for before, after in pairwise(peaks)]
    kept = peaks[-1] - resident_mib() if peaks else 0.0
    return images + 2 * max(grown[-2:], default=0.0) + max(0.0, kept)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
