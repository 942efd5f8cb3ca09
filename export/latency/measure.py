"""Latency and throughput in alternating, re-warmed blocks, so that the machine's drift hits all engines alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.latency.pool import Pool
from export.latency.runner import Block, Runner
from export.latency.statistics import percentiles
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.inputs import Feed
from toolkit.runtime.memory import (
    MIB,
    available_mib,
    is_allocation_failure,
    peak_resident_mib,
    reset_peak,
    resident_mib,
)
from toolkit.runtime.providers import ON_CPU

BLOCKS = 10
"""Turns of each engine; its runs of one turn follow each other, so that its weights stay in the caches."""
REWARM_RUNS = 2
WINDOW = 8
"""Runs whose median is compared with that of as many before them."""
STEADY = 0.03
"""Largest relative change of the median between two windows of a warm engine."""
PROBED = 16
"""Batch size up to which nobody asks whether it fits."""
SHARE = 0.9
"""Of the memory that is available, what a batch may be expected to take."""
WARMUP_SECONDS = 5.0
"""After so long an engine counts as unsteady, which its row says."""


@dataclass(frozen=True)
class MinSamples:
    """How much is counted for each engine and batch size, at least."""

    runs: int = 50
    seconds: float = 2.0

    def check(self) -> None:
        """Raise unless something is counted, and comes to an end.

        Raises:
            ToolkitError: no runs, or no time that ends.
        """
        if self.runs < 1:
            raise ToolkitError(f"{self.runs} runs measure nothing", where="--runs", fix="give 1 or more")
        if not 0 <= self.seconds < float("inf"):
            raise ToolkitError(f"{self.seconds:g} seconds are no time", where="--seconds", fix="give 0 or more")


def measure(
    engines: Sequence[Runner],
    pool: Pool,
    batch_sizes: Sequence[int],
    least: MinSamples,
    *,
    skipped: list[dict[str, Any]] | None = None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Measure every engine at every batch size in alternating, re-warmed blocks.

    Args:
        engines: what to measure; each gets the same batches.
        pool: what the batches are drawn from.
        batch_sizes: images a run.
        least: how much to count.
        skipped: takes an entry for each engine and batch size that does not fit in memory; an error without it.
        progress: told how it goes on.

    Returns:
        The ``rows`` of ``latency.json``; times are in milliseconds for a whole batch, from
        host memory to host memory.

    Raises:
        ToolkitError: no runs, or a batch size below one.
    """
    least.check()
    check_sizes(batch_sizes)
    rows: list[dict[str, Any]] = []
    growth = {}
    if skipped is not None and max(batch_sizes) > PROBED:  # before a large batch: what it takes stays taken
        growth = {id(engine): _growth_mib(engine, pool) for engine in engines if engine.provider in ON_CPU}
    for batch_size in batch_sizes:
        fitting = list(engines) if skipped is None else _fitting(engines, pool, batch_size, growth, skipped)
        if fitting:
            counted = alternate(fitting, pool.batches(batch_size), least, progress=progress)
            rows += [samples.row(batch_size) for samples in counted]
    return rows


def check_sizes(batch_sizes: Sequence[int]) -> None:
    """Raise :class:`ToolkitError` unless there are batch sizes, each of 1 or more."""
    if not batch_sizes or min(batch_sizes) < 1:
        raise ToolkitError("a batch size must be 1 or more", where="--batch-sizes", fix="write it like 1,8,32")


def _fitting(
    engines: Sequence[Runner],
    pool: Pool,
    batch_size: int,
    growth: Mapping[int, float],
    skipped: list[dict[str, Any]],
) -> list[Runner]:
    """Engines that run a batch of this size; why the others don't goes to ``skipped``.

    A batch whose growth alone would fill the machine is not tried at all: the system would kill the process.
    """
    fitting = []
    for engine in engines:
        reason = _shortage(engine, pool, batch_size, growth.get(id(engine), 0.0))
        if reason is None:
            fitting.append(engine)
        else:
            what = {"engine": engine.name, "precision": engine.precision, "provider": engine.provider}
            skipped.append(what | {"batch_size": batch_size, "reason": reason})
    return fitting


def _shortage(engine: Runner, pool: Pool, batch_size: int, growth_mib: float) -> str | None:
    """Why a batch does not fit in memory, where each image takes so much; None if it does."""
    try:
        there = available_mib()
        if batch_size > PROBED:
            needed = growth_mib * batch_size
            if needed > SHARE * there:
                return f"batch size {batch_size} takes about {needed:,.0f} MiB, and {there:,.0f} MiB are available"
        engine.run(pool.batches(batch_size)[0])
    except Exception as error:
        if not is_allocation_failure(error):
            raise
        return f"batch size {batch_size} does not fit in memory"
    return None


def _growth_mib(engine: Runner, pool: Pool) -> float:
    """MiB that each further image of a batch takes at the peak, and its own pixels; tried with one and with a few.

    Where the system does not let the peak begin anew, what the process holds afterwards stands for it: ONNX Runtime
    keeps what it took.
    """
    pixels = pool.largest_bytes / MIB
    taken = []
    for size in (1, PROBED):
        anew = reset_peak()
        try:
            engine.run(pool.batches(size)[0])
        except Exception as error:
            if not is_allocation_failure(error):
                raise
            return float("inf")
        taken.append(peak_resident_mib() if anew else resident_mib())
    return max(0.0, taken[1] - taken[0]) / (PROBED - 1) + pixels


@dataclass(frozen=True)
class WarmUp:
    """Runs that are not counted."""

    seconds: tuple[float, ...]
    steady: bool | None
    """Whether it reached a steady value within its limit; None if that is shorter than two windows."""

    @property
    def run_seconds(self) -> float:
        """Median seconds of the last window's runs."""
        return float(np.median(self.seconds[-WINDOW:]))


@dataclass(frozen=True)
class Samples:
    """What was counted of an engine at one batch size, and what was run before."""

    engine: Runner
    blocks: tuple[Block, ...]
    warm_up: WarmUp
    rewarm_seconds: tuple[float, ...] = ()
    """Runs in front of the blocks, which are not counted."""

    @property
    def seconds(self) -> list[float]:
        """Of all counted runs, in order."""
        return [seconds for block in self.blocks for seconds in block.seconds]

    @property
    def block_medians(self) -> list[float]:
        """Median seconds of a run, of each block."""
        return [float(np.median(block.seconds)) for block in self.blocks]

    def row(self, batch_size: int) -> dict[str, Any]:
        """A row of ``latency.json``."""
        seconds, device = self.seconds, [each for block in self.blocks for each in block.device_seconds]
        before = self.warm_up.seconds + self.rewarm_seconds
        row = {
            "provider": self.engine.provider,
            "precision": self.engine.precision,
            "batch_size": batch_size,
            "engine": self.engine.name,
            "scenario": "SingleStream",
            **percentiles(seconds),
            "throughput_ips": batch_size * len(seconds) / sum(seconds),
            "runs": len(seconds),
            "warmup_runs": len(before),
            "warmup_seconds": sum(before),
            "steady": self.warm_up.steady,
            "threads": self.engine.threads,
            "block_p50_ms": [1000 * median for median in self.block_medians],
        }
        return row | {"device": percentiles(device)} if device else row


def alternate(
    engines: Sequence[Runner],
    batches: Sequence[Feed],
    least: MinSamples,
    *,
    blocks: int = BLOCKS,
    progress: Progress = SILENT,
) -> list[Samples]:
    """Warm the engines until their times are steady, then count them in turns; what was counted, in their order."""
    warm_ups, runs = [], []
    for engine in engines:
        warm_ups.append(warm_until_steady(engine, batches, min(WARMUP_SECONDS, max(2.5 * least.seconds, 0.05))))
        wanted = max(least.runs, round(least.seconds / warm_ups[-1].run_seconds))
        runs.append(max(1, -(-wanted // blocks)))
    counted: list[list[Block]] = [[] for _ in engines]
    rewarmed: list[list[float]] = [[] for _ in engines]
    for block in range(blocks):
        places = range(len(engines))
        for place in places if block % 2 == 0 else reversed(places):
            if len(engines) > 1 or block == 0:
                rewarmed[place] += engines[place].warm_up(batches, REWARM_RUNS)
            counted[place].append(engines[place].measure(batches, runs[place], block * runs[place]))
            progress.step()
    return [
        Samples(engine, tuple(blocks_of), warm_up, tuple(seconds))
        for engine, blocks_of, warm_up, seconds in zip(engines, counted, warm_ups, rewarmed, strict=True)
    ]


def warm_until_steady(engine: Runner, batches: Sequence[Feed], most_seconds: float) -> WarmUp:
    """Run until two neighbouring windows have the same median to 3 %, or the time is over."""
    times: list[float] = []
    steady = None
    started = time.perf_counter()
    while True:
        times += engine.warm_up(batches, 1)
        last, before = times[-WINDOW:], times[-2 * WINDOW : -WINDOW]
        if len(before) == WINDOW:
            steady = bool(abs(np.median(last) / np.median(before) - 1) <= STEADY)
        over = len(times) > REWARM_RUNS and time.perf_counter() - started > most_seconds
        if steady or over:
            return WarmUp(tuple(times), steady)
