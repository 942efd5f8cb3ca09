"""Sessions side by side, with threads on a CPU or streams on a GPU: how many give the most, or the least latency."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from export.latency.measure import REWARM_RUNS, MinSamples
from export.latency.pool import Pool
from export.latency.runner import SPINNING, Runner
from export.latency.statistics import percentiles
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.inputs import Feed, examples_in
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.memory import available_mib, is_allocation_failure, resident_mib
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.serving.pool import SessionPool

BLOCKS = 4
"""Turns of each layout."""
SHARE = 0.9
"""Of the memory that is available, what sessions may be expected to take."""
LEAST = MinSamples(runs=50, seconds=8.0)


@dataclass(frozen=True)
class SessionLayout:
    """Sessions that run at once, and the threads of each."""

    sessions: int
    threads: int
    allow_spinning: bool = True
    provider_options: Mapping[Any, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LayoutRuns:
    """What was counted of a layout at one batch size."""

    layout: SessionLayout
    batch_size: int
    times: tuple[float, ...] = ()
    """Seconds of all runs."""
    rates: tuple[float, ...] = ()
    """Images a second of each block."""
    note: str | None = None
    """Why it was not measured to the end."""

    def __add__(self, more: LayoutRuns) -> LayoutRuns:
        """All blocks of both."""
        times, rates = self.times + more.times, self.rates + more.rates
        return replace(self, times=times, rates=rates, note=self.note or more.note)

    def row(self) -> dict[str, Any]:
        """A row of ``latency.json``."""
        row = {
            "sessions": self.layout.sessions,
            "threads": self.layout.threads,
            "allow_spinning": self.layout.allow_spinning,
            "provider_options": dict(self.layout.provider_options),
            "batch_size": self.batch_size,
            "throughput_ips": None,
            "p50_ms": None,
            "p99_ms": None,
            "runs": len(self.times),
        }
        if self.note is not None:
            return row | {"note": self.note}
        rates = list(self.rates)
        return row | percentiles(self.times) | {"throughput_ips": float(np.mean(rates)), "block_ips": rates}


Opener = Callable[[SessionLayout], Runner]
"""Opens one of a layout's sessions."""


def layouts(cores: int) -> list[SessionLayout]:
    """Powers of two, and all cores, as sessions and threads that together take no more than the cores.

    With several sessions, those whose threads are several come twice: with pools that spin and that don't. A
    session of one thread has no pool.
    """
    counts = sorted({1 << power for power in range(cores.bit_length())} | {cores})
    return [
        SessionLayout(sessions, threads, allow_spinning)
        for sessions in counts
        for threads in counts
        if sessions * threads <= cores
        for allow_spinning in ((True, False) if sessions > 1 and threads > 1 else (True,))
    ]


PROVIDER_CHOICES: dict[str, tuple[dict[str, str], ...]] = {
    "cuda": ({}, {"cudnn_conv_algo_search": "HEURISTIC"}),
    "tensorrt": ({}, {"trt_builder_optimization_level": "5"}),
}
"""How kernels may be chosen, beside the provider's own way; sums may come in another order, which tune proves again."""
STREAMS = (1, 2, 4)
"""Sessions that share a GPU, each with a stream."""


def layouts_on(provider: str, cores: int) -> list[SessionLayout]:
    """What may run side by side on a provider, with each choice of its options."""
    if provider == "cpu":
        return layouts(cores)
    if provider == OPENVINO:  # its threads sleep between operators, and there is nothing to choose
        return [layout for layout in layouts(cores) if layout.allow_spinning]
    choices = PROVIDER_CHOICES[provider]
    return [SessionLayout(sessions, 1, provider_options=choice) for choice in choices for sessions in STREAMS]


def session_options(layout: SessionLayout, provider: str = "cpu") -> dict[Any, str]:
    """Entries of ONNX Runtime's configuration for sessions that stand side by side; OpenVINO has none."""
    return {} if provider == OPENVINO else {SPINNING: "1" if layout.allow_spinning else "0"}


def concurrency(
    opener: Opener,
    pool: Pool,
    swept: Sequence[SessionLayout] | None = None,
    least: MinSamples = LEAST,
    *,
    batch_size: int = 1,
    blocks: int = BLOCKS,
    progress: Progress = SILENT,
) -> list[LayoutRuns]:
    """Measure layouts of sessions and threads in alternating blocks.

    Each session has a thread that runs it again as soon as it is done (ONNX Runtime lets go of Python's lock
    meanwhile). Sessions are opened for a block and closed after it, so that those of one layout alone take
    memory and cores.

    Args:
        opener: opens a session of a layout, with its threads, with or without spinning.
        pool: what the batches are drawn from.
        swept: what to measure; all layouts of this machine's cores unless given.
        least: runs of each session, and seconds, over all blocks.
        batch_size: images a run.
        blocks: turns of each layout.
        progress: told how it goes on.

    Returns:
        What was counted of each layout; one that does not fit in memory has a ``note``.

    Raises:
        ToolkitError: no runs, or nothing to sweep.
    """
    least.check()
    swept = layouts(usable_cores()) if swept is None else swept
    if not swept or any(min(each.sessions, each.threads) < 1 for each in swept):
        raise ToolkitError("a layout has 1 session and 1 thread or more", where="--sessions", fix="give 1 or more")
    batches = pool.batches(batch_size)
    a_block = MinSamples(-(-least.runs // blocks), least.seconds / blocks)
    counted = [LayoutRuns(layout, batch_size) for layout in swept]
    session_mib = 0.0
    for block in range(blocks):
        places = range(len(swept))
        for place in places if block % 2 == 0 else reversed(places):
            if counted[place].note is None:
                more, session_mib = _block(opener, counted[place], batches, a_block, session_mib)
                counted[place] += more
            progress.step()
    return counted


def _block(
    opener: Opener, counted: LayoutRuns, batches: Sequence[Feed], least: MinSamples, session_mib: float
) -> tuple[LayoutRuns, float]:
    """Count a block, or note that it does not fit in memory.

    Returns:
        What was counted, and the most MiB that a session was seen to take.
    """
    layout = counted.layout
    none = LayoutRuns(layout, counted.batch_size)
    engines: list[Runner] = []
    try:
        while len(engines) < layout.sessions:
            held, there = resident_mib(), available_mib()
            if session_mib > SHARE * there:
                note = f"{layout.sessions} sessions do not fit in memory: {len(engines)} leave "
                note += f"{there:,.0f} MiB, and a session takes about {session_mib:,.0f} MiB"
                return replace(none, note=note), session_mib
            engines.append(opener(layout))
            engines[-1].warm_up(batches, REWARM_RUNS)
            session_mib = max(session_mib, resident_mib() - held)
        times, rate = closed_loop(engines, batches, least)
    except Exception as error:
        if not is_allocation_failure(error):
            raise
        return replace(none, note=f"{layout.sessions} sessions do not fit in memory"), session_mib
    return replace(none, times=tuple(times), rates=(rate,)), session_mib


def closed_loop(engines: Sequence[Runner], batches: Sequence[Feed], least: MinSamples) -> tuple[list[float], float]:
    """Run all engines at once, each again as soon as it is done.

    Args:
        engines: one a thread.
        batches: each engine begins at another one.
        least: runs of each engine, and seconds, at least.

    Returns:
        Seconds of all runs, and images a second of all engines together: the sum over the engines of their
        images over their own time, since the last runs don't end together.
    """
    together = threading.Barrier(len(engines))

    def work(engine: Runner, place: int) -> tuple[list[float], float]:
        offset = place * len(batches) // len(engines)
        try:
            engine.warm_up(batches, REWARM_RUNS)
        except BaseException:
            together.abort()
            raise
        try:
            together.wait()
        except threading.BrokenBarrierError:
            return [], 0.0  # another session failed, whose error is raised
        times: list[float] = []
        images, started = 0, time.perf_counter()
        while len(times) < least.runs or time.perf_counter() - started < least.seconds:
            batch = batches[(offset + len(times)) % len(batches)]
            times.append(engine.timed(batch))
            images += examples_in(batch)
        return times, images / (time.perf_counter() - started)

    with SessionPool(engines) as pool:
        counted = pool.each(work)
    return [seconds for times, _ in counted for seconds in times], sum(rate for _, rate in counted)
