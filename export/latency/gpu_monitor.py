"""What the GPU did while it was measured, by NVML: clocks, power, heat, memory, and what held it back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

CLOCK_REASONS = {
    "SwPowerCap": "the power limit",
    "HwSlowdown": "the hardware",
    "HwThermalSlowdown": "heat",
    "SwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "the power supply",
}
"""NVML's reasons for a clock below what was asked for, by the end of their constants' names."""
BUS_ID_BYTES = 32


@lru_cache(maxsize=1)
def card() -> tuple[Any, Any] | None:
    """NVML's module, initialised once in a process, and its handle of the GPU that CUDA calls 0; None without one.

    Raises:
        ModuleNotFoundError: NVML's Python package is not installed.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml, visible_gpu(pynvml, cuda_driver())
    except pynvml.NVMLError:
        return None


def cuda_driver() -> Any:
    """CUDA's driver library, or None on a machine without one."""
    with contextlib.suppress(OSError):
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    return None


def visible_gpu(pynvml: Any, driver: Any) -> Any:
    """NVML's handle of the GPU that CUDA calls 0.

    NVML counts cards by their place on the bus and knows nothing of ``CUDA_VISIBLE_DEVICES``; CUDA counts the fastest
    first unless ``CUDA_DEVICE_ORDER`` says otherwise. So the driver itself is asked where its first card sits.
    """
    place = bus_id(driver)
    if place is not None:
        return pynvml.nvmlDeviceGetHandleByPciBusId(place)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(first))
    return pynvml.nvmlDeviceGetHandleByUUID(first) if first else pynvml.nvmlDeviceGetHandleByIndex(0)


def bus_id(driver: Any) -> bytes | None:
    """Where the GPU that CUDA calls 0 sits, such as ``0000:65:00.0``; None where the driver can't tell."""
    if driver is None:
        return None
    device, place = ctypes.c_int(), ctypes.create_string_buffer(BUS_ID_BYTES)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    return None if driver.cuDeviceGetPCIBusId(place, BUS_ID_BYTES, device) else place.value


def device_used_mib() -> float | None:
    """MiB of the device's memory in use by all processes; None without a GPU or without NVML's package.

    What one process takes is the difference of two readings: NVML tells memory by process only where it sees the
    machine's process ids, not in a container.
    """
    try:
        there = card()
    except ModuleNotFoundError:
        return None
    if there is None:
        return None
    pynvml, handle = there
    with contextlib.suppress(pynvml.NVMLError):
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20)
    return None


def gpu_state() -> dict[str, Any] | None:
    """The first visible GPU by NVML: name, clocks in MHz, power in W, temperature in °C, memory in MiB, reasons that
    hold its clocks back; None without a GPU, ``{"unknown": reason}`` without NVML's Python package.
    """
    try:
        there = card()
    except ModuleNotFoundError:
        return {"unknown": 'nvidia-ml-py is not installed; pip install "clip-toolkit[gpu]"'}
    if there is None:
        return None
    pynvml, handle = there
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


def _held_back(reasons: int, pynvml: Any) -> list[str]:
    """What holds the clocks back, in words."""
    found = [
        words
        for name, words in CLOCK_REASONS.items()
        if reasons & getattr(pynvml, f"nvmlClocksThrottleReason{name}", 0)
    ]
    return list(dict.fromkeys(found))


class GpuWatch:
    """Readings of the GPU's state while it works, between blocks of runs."""

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def read(self) -> None:
        """Take note of the state now."""
        state = gpu_state()
        if state is not None and ("unknown" not in state or not self._states):
            self._states.append(state)

    def end(self) -> dict[str, Any] | None:
        """The state when the card drew most power, with the reasons of all readings; None without a GPU."""
        if not self._states:
            self.read()
        if not self._states:
            return None
        reasons = dict.fromkeys(reason for state in self._states for reason in state.get("throttled", []))
        busiest = max(self._states, key=lambda state: float(state.get("power_w", 0)))
        return busiest | ({"throttled": list(reasons)} if "unknown" not in busiest else {})
