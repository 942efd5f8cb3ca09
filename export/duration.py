"""How long a measurement will take, from one run of each engine: said before it starts, and to a minute or so."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from export.latency.cold_start import REPEATS
from export.latency.measure import BLOCKS, REWARM_RUNS, WARMUP_SECONDS, WINDOW, MinSamples
from export.latency.roofline import limits
from export.latency.scenarios import concurrency, multi_stream, offline, server

START_SECONDS = 3.0
"""Of a process that loads a bundle and answers."""
OPEN_SECONDS = 0.5
"""Seconds that opening a session takes."""
OFFLINE_SIZES = 6
"""Batch sizes that the Offline scenario usually goes through before it gains nothing."""
SERVER_POINTS = 3 + int(log2(1 / server.RESOLUTION))
"""Rates that the server scenario tries: some to saturate it, a bisection, and a verification of twice the length."""


def counted_seconds(run: float, least: MinSamples) -> float:
    """Seconds that an engine takes at a batch size, warm-up included, when a run takes so many."""
    warm = min(WARMUP_SECONDS, max(2 * WINDOW * run, 2 * run))
    return warm + max(least.runs * run, least.seconds) + BLOCKS * REWARM_RUNS * run


def benchmark_seconds(
    ours: Sequence[float],
    others: Sequence[float],
    batch_sizes: Sequence[int],
    least: MinSamples,
    *,
    details: bool,
    scenarios: Sequence[str],
    combinations: int,
) -> float:
    """Seconds that :func:`export.benchmark.benchmark` will take, about.

    Args:
        ours: seconds of a run of one image, of each precision.
        others: the same of the engines to compare with.
        batch_sizes: images a run; a batch is taken to last as long as its images one by one, which is the most.
        least: how much is counted of each engine and batch size.
        details: whether cold start, a request and the machine's limits are measured too.
        scenarios: MLPerf's, of the first precision.
        combinations: sessions and threads that the scenario ``concurrency`` goes through.
    """
    seconds = sum(counted_seconds(one * size, least) for one in (*ours, *others) for size in batch_sizes)
    first = ours[0]
    if details:
        for one in ours:
            seconds += REPEATS * (START_SECONDS + one * sum(batch_sizes)) + counted_seconds(one, least)
            # the network itself beside the matmuls of two libraries
            seconds += 3 * sum(counted_seconds(one * size, limits.LEAST) for size in batch_sizes)
    if {"offline", "server"} & set(scenarios):
        seconds += sum(counted_seconds(first * 2**power, offline.LEAST) for power in range(OFFLINE_SIZES))
    if "multi-stream" in scenarios:
        seconds += sum(counted_seconds(first * samples, MinSamples()) for samples in multi_stream.SAMPLES)
    if "concurrency" in scenarios:
        seconds += combinations * counted_seconds(first, concurrency.LEAST)
    if "server" in scenarios:
        seconds += (SERVER_POINTS + 1) * max(server.LEAST.seconds, server.LEAST.runs * first)
    return seconds


def baseline_seconds(precisions: int, run: float, batch_sizes: Sequence[int], least: MinSamples, pairs: int) -> float:
    """Seconds that a comparison of two bundles takes at least, about.

    Args:
        precisions: that both bundles hold.
        run: seconds of a run of one image.
        batch_sizes: images a run.
        least: how much is counted of each bundle, precision and batch size.
        pairs: blocks of each, before anybody looks whether more are needed.
    """
    runs = [max(least.runs * run * size, least.seconds, pairs * run * size) for size in batch_sizes]
    return 2 * precisions * sum(max(0.2, least.seconds) / 2 + each for each in runs)


def tune_seconds(
    runs: Sequence[float],
    combinations: int,
    batch_sizes: Sequence[int],
    budget_seconds: float,
    *,
    rough: MinSamples,
    apart: Sequence[MinSamples],
) -> float:
    """Seconds that a search takes at most, about: each precision, sessions and threads at every batch size that fits.

    Args:
        runs: seconds of a run of one image, of each precision.
        combinations: sessions and threads that it goes through.
        batch_sizes: images a run, in rising order; larger ones than a run of the budget are not tried.
        budget_seconds: that a request may take.
        rough: how much is counted of each configuration.
        apart: how much is counted of each finalist and of the choice, all of them.
    """
    seconds = 0.0
    for one in runs:
        tried = [size for size in batch_sizes if one * size <= budget_seconds]
        tried = list(batch_sizes[: len(tried) + 1])  # one more shows that it is too slow
        seconds += combinations * sum(OPEN_SECONDS + max(rough.runs * one * size, rough.seconds) for size in tried)
    slowest = min(max(runs) * batch_sizes[-1], budget_seconds)
    return seconds + sum(max(each.seconds, each.runs * slowest) for each in apart)
