"""Which card is read, when, and what a process takes of it; the driver and NVML are stand-ins, since hardware is."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from export.latency import gpu_monitor
from export.latency.cold_start import CHILD
from export.latency.gpu_monitor import GpuWatch, bus_id, device_used_mib, gpu_state, visible_gpu
from export.latency.system_monitor import Conditions
from toolkit.progress import SILENT, Progress


class Driver:
    """CUDA's driver on a machine whose first card by speed is the second on the bus."""

    def __init__(self, place: bytes = b"0000:65:00.0", *, there: bool = True) -> None:
        self.place, self.there = place, there

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0 if self.there else 100

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = 7 + ordinal
        return 0

    def cuDeviceGetPCIBusId(self, place: Any, length: int, device: Any) -> int:  # noqa: N802
        assert (device.value, length) == (7, 32)
        place.value = self.place
        return 0


class Nvml:
    """NVML with two cards, in the order of the bus."""

    NVMLError = RuntimeError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 0, 1, 0
    nvmlClocksThrottleReasonSwPowerCap = 4  # noqa: N815

    def __init__(self) -> None:
        self.initialised, self.read, self.used = 0, 0, 500 * 2**20

    def nvmlInit(self) -> None:  # noqa: N802
        self.initialised += 1

    def nvmlDeviceGetHandleByPciBusId(self, place: bytes) -> str:  # noqa: N802
        return f"card at {place.decode()}"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"card {index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        return f"card {name}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self.read += 1
        return 100_000 * (self.read if self.read < 3 else 1)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return self.nvmlClocksThrottleReasonSwPowerCap if self.read == 1 else 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvmlClocks"):
            return 0
        if name.startswith("nvml"):
            return lambda *arguments: 0
        raise AttributeError(name)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu_monitor, "cuda_driver", Driver)
    gpu_monitor.card.cache_clear()
    yield fake
    gpu_monitor.card.cache_clear()


def test_the_card_is_the_one_that_cuda_calls_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its place on the bus, whatever order CUDA counts in and whatever it can see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpu(Nvml(), Driver()) == "card at 0000:65:00.0"


@pytest.mark.parametrize("driver", [None, Driver(there=False)])
@pytest.mark.parametrize(("visible", "wanted"), [("1,0", "card 1"), ("GPU-ab", "card GPU-ab"), ("", "card 0")])
def test_without_an_answer_of_the_driver_the_variable_tells(
    driver: Driver | None, visible: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert bus_id(driver) is None
    assert visible_gpu(Nvml(), driver) == wanted


def test_nvml_is_initialised_once_and_read_between_blocks(nvml: Nvml) -> None:
    class Told(Progress):
        steps = 0

        def step(self) -> None:
            self.steps += 1

    told, watch = Told(), GpuWatch()
    progress = Conditions(watch=watch).between_blocks(told)
    assert nvml.read == 0
    for _ in range(3):
        progress.step()
    assert (told.steps, nvml.read, nvml.initialised) == (3, 3, 1)
    state = watch.end()
    assert state is not None
    assert (state["power_w"], state["throttled"]) == (200.0, ["the power limit"])
    assert nvml.read == 3


def test_a_cpu_is_watched_without_nvml() -> None:
    assert Conditions().between_blocks(SILENT) is SILENT


def test_memory_is_that_of_all_processes_and_one_takes_the_difference(nvml: Nvml) -> None:
    before = device_used_mib()
    nvml.used += 300 * 2**20
    after = device_used_mib()
    assert before is not None
    assert after is not None
    assert (before, after - before) == (500.0, 300.0)
    assert "nvmlDeviceGetComputeRunningProcesses" not in CHILD


@pytest.mark.skipif(gpu_monitor.cuda_driver() is not None, reason="this machine has CUDA's driver")
def test_a_machine_without_a_card_has_no_state() -> None:
    gpu_monitor.card.cache_clear()
    assert gpu_state() is None
    assert device_used_mib() is None
