"""Latency and throughput of the shipped graph, in alternation with what else a user could run.

Imports no torch, so that it runs on a production host; the torch engines live in
``export.engines``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.preprocess import Float32, UInt8

Inputs = Float32 | UInt8
BLOCKS = 5
"""Turns of each engine; its runs of one turn follow each other, so that its weights stay in the caches."""
REWARM_RUNS = 2
BATCHES = 16
"""Most distinct batches of a size."""
POOL = 64
"""Most images in the pool of inputs."""


@dataclass
class Engine:
    """Something that turns a batch into probabilities, synchronously."""

    name: str
    precision: str
    provider: str
    threads: int
    run: Callable[[Any], Any]
    input: str = "pixel_values"
    """What a batch holds: ``pixel_values`` or ``image``."""
    times: list[float] = field(default_factory=list)
    warmup_runs: int = 0

    def warm_up(self, batches: Sequence[Inputs], runs: int) -> None:
        """Run without counting."""
        for number in range(runs):
            self.run(batches[number % len(batches)])
        self.warmup_runs += runs

    def measure(self, batches: Sequence[Inputs], runs: int) -> None:
        """Time runs one by one over a pool of batches."""
        for _ in range(runs):
            batch = batches[len(self.times) % len(batches)]
            started = time.perf_counter()
            self.run(batch)
            self.times.append(time.perf_counter() - started)


def onnxruntime_engine(bundle: Bundle, *, provider: str, threads: int | None, precision: str) -> Engine:
    """The bundle's graph with production's session options, on the provider asked for or not at all."""
    session = bundle.session(provider=provider, threads=threads, precision=precision)
    return Engine("onnxruntime", precision, provider, session.threads, session.run, session.input)


def measure(
    engines: Sequence[Engine],
    pool: Sequence[Inputs],
    batch_sizes: Sequence[int],
    *,
    runs: int,
    seconds: float,
    warmup_runs: int = 5,
    advance: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Measure every engine at every batch size in alternating, re-warmed blocks.

    Args:
        engines: what to measure; each gets the same batches.
        pool: groups of images of one shape, as the engines take them, that the batches are drawn from.
        batch_sizes: images a run.
        runs: runs to count for each engine and batch size, at least.
        seconds: time to count for each engine and batch size, at least.
        warmup_runs: runs before the first block that don't count.
        advance: called after each block.

    Returns:
        The ``rows`` of ``latency.json``; times are in milliseconds for a whole batch, from
        host memory to host memory.

    Raises:
        ToolkitError: no runs, or a batch size below one.
    """
    if runs < 1:
        raise ToolkitError(f"{runs} runs measure nothing", where="--runs", fix="give 1 or more")
    if not batch_sizes or min(batch_sizes) < 1:
        raise ToolkitError("a batch size must be 1 or more", where="--batch-sizes", fix="write it like 1,8,32")
    rows = []
    for batch_size in batch_sizes:
        batches = _batches(pool, batch_size)
        for engine in engines:
            engine.times, engine.warmup_runs = [], 0
            engine.warm_up(batches, warmup_runs)
        a_block = {id(engine): _runs_a_block(engine, batches, runs, seconds) for engine in engines}
        for block in range(BLOCKS):
            for engine in engines if block % 2 == 0 else reversed(engines):
                engine.warm_up(batches, REWARM_RUNS)
                engine.measure(batches, a_block[id(engine)])
                advance()
        rows += [_row(engine, batch_size) for engine in engines]
    return rows


def _runs_a_block(engine: Engine, batches: Sequence[Inputs], runs: int, seconds: float) -> int:
    """Runs that make ``runs`` in all and about ``seconds`` in all, spread over the blocks."""
    started = time.perf_counter()
    engine.warm_up(batches, REWARM_RUNS)
    one = (time.perf_counter() - started) / REWARM_RUNS
    return max(1, -(-max(runs, round(seconds / one)) // BLOCKS))


def _batches(pool: Sequence[Inputs], batch_size: int) -> list[Inputs]:
    """Distinct batches that walk through each group of the pool; each starts where the one before ended."""
    batches = []
    for group in pool:
        count = max(4 if len(pool) == 1 else 1, min(BATCHES // len(pool), len(group) // batch_size))
        starts = np.arange(count)[:, None] * batch_size + np.arange(batch_size)
        batches += [np.ascontiguousarray(group[row % len(group)]) for row in starts]
    return batches


def _row(engine: Engine, batch_size: int) -> dict[str, Any]:
    milliseconds = np.array(engine.times) * 1000
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    return {
        "provider": engine.provider,
        "precision": engine.precision,
        "batch_size": batch_size,
        "engine": engine.name,
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "mean_ms": float(milliseconds.mean()),
        "throughput_ips": float(batch_size * len(milliseconds) / (milliseconds.sum() / 1000)),
        "runs": len(milliseconds),
        "warmup_runs": engine.warmup_runs,
        "threads": engine.threads,
    }
