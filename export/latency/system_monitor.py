"""What the machine did while it was measured: clocks, load, throttling, and what others took of it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from toolkit.runtime.cgroup import SYSTEM, held_back_microseconds
from toolkit.runtime.providers import ON_CPU

STEAL = 0.02
"""Share of the cores' time, taken by the host of a virtual machine, from which on a metric is in doubt."""
OTHERS = 0.1
"""Share of the cores' time, spent by other processes, from which on a metric is in doubt."""
BUSY, IDLE = ("user", "nice", "system", "irq", "softirq"), ("idle", "iowait", "steal")
"""What a core's time goes into, by psutil's names, of those that a system tells apart; none holds another one."""
CLOCK_REASONS = {
    "SwPowerCap": "the power limit",
    "HwSlowdown": "the hardware",
    "HwThermalSlowdown": "heat",
    "SwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "the power supply",
}
"""NVML's reasons for a clock below what was asked for, by the end of their constants' names."""


@dataclass
class Conditions:
    """Facts at the end of a measurement, filled in when :func:`monitored` ends."""

    facts: dict[str, Any] = field(default_factory=dict)
    """``clocks_mhz`` [least, most] over cores, ``load_average``, ``stolen_share``, ``other_processes_share``,
    ``quota_throttled_ms``, ``gpu`` where NVML knows one, and ``throttled``: sentences about what slowed the
    machine down, empty on a quiet one."""


@contextlib.contextmanager
def monitored(provider: str, system: Path = SYSTEM) -> Iterator[Conditions]:
    """Watch the machine while it is measured, its control groups under ``system``."""
    conditions = Conditions()
    before, watch = _counters(system), _GpuWatch(provider)
    try:
        yield conditions
    finally:
        gpu = watch.end()
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


def gpu_state() -> dict[str, Any] | None:
    """The first visible GPU by NVML: name, clocks in MHz, power in W, temperature in °C, memory in MiB, reasons that
    hold its clocks back; None without a GPU, ``{"unknown": reason}`` without NVML's Python package.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        return {"unknown": 'nvidia-ml-py is not installed; pip install "clip-toolkit[gpu]"'}
    try:
        pynvml.nvmlInit()
        handle = visible_gpu(pynvml)
    except pynvml.NVMLError:
        return None
    state: dict[str, Any] = {}
    for name, read in {
        "name": lambda: pynvml.nvmlDeviceGetName(handle),
        "driver": pynvml.nvmlSystemGetDriverVersion,
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_w": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "memory_used_mib": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
        "throttled": lambda: _held_back(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle), pynvml),
    }.items():
        with contextlib.suppress(pynvml.NVMLError):  # laptops and shares of a card don't tell everything
            state[name] = read()
    return state


def visible_gpu(pynvml: Any) -> Any:
    """NVML's handle of the GPU that CUDA calls 0: NVML itself knows nothing of ``CUDA_VISIBLE_DEVICES``."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(first))
    return pynvml.nvmlDeviceGetHandleByUUID(first) if first else pynvml.nvmlDeviceGetHandleByIndex(0)


def _held_back(reasons: int, pynvml: Any) -> list[str]:
    """What holds the clocks back, in words."""
    found = [
        words
        for name, words in CLOCK_REASONS.items()
        if reasons & getattr(pynvml, f"nvmlClocksThrottleReason{name}", 0)
    ]
    return list(dict.fromkeys(found))


class _GpuWatch:
    """Reads the GPU's state while it works, twice a second."""

    def __init__(self, provider: str) -> None:
        self._states: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if provider not in ON_CPU:
            self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            state = gpu_state()
            if state is None or "unknown" in state:
                self._states = [state] if state else []
                return
            self._states.append(state)

    def end(self) -> dict[str, Any] | None:
        """The state when the card drew most power, with the reasons of all readings; None without a GPU."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if not self._states:
            return None
        reasons = dict.fromkeys(reason for state in self._states for reason in state.get("throttled", []))
        busiest = max(self._states, key=lambda state: float(state.get("power_w", 0)))
        return busiest | ({"throttled": list(reasons)} if "unknown" not in busiest else {})
