"""What the machine did while it was measured: clocks, load, throttling, and what others took of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from export.latency.gpu_monitor import GpuWatch
from toolkit.progress import Progress
from toolkit.runtime.cgroup import SYSTEM, held_back_microseconds
from toolkit.runtime.providers import ON_CPU

STEAL = 0.02
"""Share of the cores' time, taken by the host of a virtual machine, from which on a metric is in doubt."""
OTHERS = 0.1
"""Share of the cores' time, spent by other processes, from which on a metric is in doubt."""
BUSY, IDLE = ("user", "nice", "system", "irq", "softirq"), ("idle", "iowait", "steal")
"""What a core's time goes into, by psutil's names, of those that a system tells apart; none holds another one."""


@dataclass
class Conditions:
    """Facts at the end of a measurement, filled in when :func:`monitored` ends."""

    facts: dict[str, Any] = field(default_factory=dict)
    """``clocks_mhz`` [least, most] over cores, ``load_average``, ``stolen_share``, ``other_processes_share``,
    ``quota_throttled_ms``, ``gpu`` where NVML knows one, and ``throttled``: sentences about what slowed the
    machine down, empty on a quiet one."""
    watch: GpuWatch | None = None

    def between_blocks(self, progress: Progress) -> Progress:
        """What tells ``progress`` all that it is told, and reads the GPU's state at each step: between two blocks of
        runs, so that no reading falls into one.
        """
        return progress if self.watch is None else _Reading(progress, self.watch)


class _Reading(Progress):
    """Reads the GPU's state whenever a part of a measurement is done."""

    def __init__(self, told: Progress, watch: GpuWatch) -> None:
        self.stage, self.done, self.expect = told.stage, told.done, told.expect  # type: ignore[method-assign]
        self._told, self._watch = told, watch

    def step(self) -> None:
        """One more block is over."""
        self._watch.read()
        self._told.step()


@contextlib.contextmanager
def monitored(provider: str, system: Path = SYSTEM) -> Iterator[Conditions]:
    """Watch the machine while it is measured, its control groups under ``system``."""
    watch = None if provider in ON_CPU else GpuWatch()
    conditions = Conditions(watch=watch)
    before = _counters(system)
    try:
        yield conditions
    finally:
        gpu = watch.end() if watch else None
    after = _counters(system)
    spent = {name: after[name] - before[name] for name in before if name in after}
    conditions.facts = {"clocks_mhz": _clocks(), "load_average": list(psutil.getloadavg())}
    sentences = []
    if spent.get("seconds"):
        stolen, others = (max(0.0, spent[name] / spent["seconds"]) for name in ("steal", "others"))
        conditions.facts |= {"stolen_share": stolen, "other_processes_share": others}
        if stolen > STEAL:
            sentences.append(f"the host of this virtual machine took {stolen:.0%} of the cores' time")
        if others > OTHERS:
            sentences.append(f"other processes took {others:.0%} of the cores' time")
    if "throttled_usec" in spent:
        conditions.facts["quota_throttled_ms"] = spent["throttled_usec"] / 1000
        if spent["throttled_usec"] > 0:
            sentences.append(f"the container's CPU quota held it back for {spent['throttled_usec'] / 1000:.0f} ms")
    if spent.get("thermal", 0) > 0:
        sentences.append(f"the cores throttled {spent['thermal']:.0f} times because of heat")
    if gpu:
        conditions.facts["gpu"] = gpu
        sentences += [f"the GPU's clocks were held back by {reason}" for reason in gpu.get("throttled", [])]
    conditions.facts["throttled"] = sentences


def _counters(system: Path) -> dict[str, float]:
    """Counters that only grow, of those that this system has."""
    counters: dict[str, float] = {}
    spent = psutil.cpu_times()._asdict()
    seconds = {state: spent[state] for state in (*BUSY, *IDLE) if state in spent}
    busy = sum(seconds.get(state, 0.0) for state in BUSY)
    steal = seconds.get("steal", 0.0)
    counters |= {"seconds": sum(seconds.values()), "steal": steal, "others": busy - sum(os.times()[:4])}
    held_back = held_back_microseconds(system)
    if held_back is not None:
        counters["throttled_usec"] = held_back
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    with contextlib.suppress(OSError, ValueError):
        counts = [int(file.read_text("utf-8")) for file in files]
        if counts:
            counters["thermal"] = sum(counts)
    return counters


def _clocks() -> list[float] | None:
    """Least and most of the cores' clocks now, in MHz."""
    with contextlib.suppress(OSError, RuntimeError, NotImplementedError):  # not every system and board tells them
        clocks = [core.current for core in psutil.cpu_freq(percpu=True) or []]
        return [min(clocks), max(clocks)] if clocks else None
    return None
