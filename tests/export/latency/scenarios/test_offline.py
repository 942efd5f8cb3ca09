from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from export.latency.measure import MinSamples
from export.latency.pool import Pool, golden_contents, pool_of
from export.latency.runner import Runner, onnxruntime_engine
from export.latency.scenarios.offline import offline
from toolkit.errors import ToolkitError
from toolkit.reporting.scenario_section import scenario_parts
from toolkit.runtime import memory
from toolkit.runtime.bundle import Bundle

POOL = Pool([], [{"pixel_values": np.zeros((8, 3, 2, 2), np.float32)}], "here")
LEAST = MinSamples(3, 0)


def fake(run: Callable[[Any], Any]) -> Runner:
    return Runner("fake", "fp32", "cpu", 1, run)


class Steady(Runner):
    """Runs that took exactly as long as a rule says, in seconds by batch size."""

    def timed(self, batch: Any) -> float:
        seconds: float = self.run(len(batch["pixel_values"]))
        return seconds


def steady(seconds: Callable[[int], float]) -> Runner:
    return Steady("fake", "fp32", "cpu", 1, seconds)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation"),
        RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1024"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("Available memory of 1 is smaller than requested bytes of 2"),
    ],
)
def test_a_batch_that_does_not_fit_ends_the_sweep_with_a_sentence(error: Exception) -> None:
    def seconds(batch_size: int) -> float:
        if batch_size == 8:
            raise error
        return 0.01

    found = offline(steady(seconds), POOL, LEAST)
    assert [row["batch_size"] for row in found["rows"]] == [1, 2, 4]
    assert found["offline_end"].startswith("batch size 8 does not fit in memory: ")
    assert str(error) in found["offline_end"]
    assert found["best_ips"] == max(row["throughput_ips"] for row in found["rows"])


def test_not_even_one_image_fits() -> None:
    def run(batch: Any) -> None:
        raise MemoryError

    found = offline(fake(run), POOL, LEAST)
    assert found["rows"] == []
    assert found["best_ips"] is None
    assert found["offline_end"] == "batch size 1 does not fit in memory: MemoryError"


def test_other_errors_are_errors() -> None:
    def run(batch: Any) -> None:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        offline(fake(run), POOL, LEAST)


def test_the_sweep_ends_when_throughput_stops_growing() -> None:
    found = offline(steady(lambda batch_size: 0.01 * max(1, batch_size / 2)), POOL, MinSamples(5, 0))
    assert [row["batch_size"] for row in found["rows"]] == [1, 2, 4, 8]
    assert found["best_ips"] == pytest.approx(200)
    assert "stopped growing" in found["offline_end"]
    assert {"precision", "provider", "p50_ms", "p99_ms", "runs", "peak_resident_mib"} <= set(found["rows"][0])
    assert {row["scenario"] for row in found["rows"]} == {"Offline"}


def test_one_step_without_growth_is_no_end() -> None:
    throughput = {1: 100.0, 2: 101.0, 4: 200.0, 8: 190.0, 16: 201.0}
    found = offline(steady(lambda batch_size: batch_size / throughput[batch_size]), POOL, LEAST)
    assert [row["batch_size"] for row in found["rows"]] == list(throughput)


def test_a_largest_size_ends_the_sweep() -> None:
    found = offline(steady(lambda _: 0.005), POOL, LEAST, largest=5)
    assert [row["batch_size"] for row in found["rows"]] == [1, 2, 4]
    assert "largest asked for" in found["offline_end"]


def test_a_batch_is_not_tried_when_memory_would_end(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1000.0, 1100.0, 1300.0])
    monkeypatch.setattr("export.latency.scenarios.offline.peak_resident_mib", lambda: next(peaks))
    monkeypatch.setattr("export.latency.scenarios.offline.resident_mib", lambda: 1300.0)
    found = offline(steady(lambda _: 0.005), POOL, LEAST, available=lambda: 440.0)
    assert [row["batch_size"] for row in found["rows"]] == [1, 2, 4]
    assert found["offline_end"].startswith("batch size 8 was not tried: it takes about 400 MiB more, and 440 MiB are")


def test_no_runs_are_refused() -> None:
    with pytest.raises(ToolkitError, match="0 runs"):
        offline(fake(lambda _: None), POOL, MinSamples(0, 0))


def test_a_real_bundle_is_swept_and_the_report_shows_it(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(finished_bundle)
    engine = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    pool = pool_of(bundle, engine.input, *golden_contents(bundle))
    found = offline(engine, pool, MinSamples(1, 0), largest=2)
    assert found["rows"]
    assert found["best_ips"] > 0
    shown = "".join(scenario_parts({"offline": found["rows"], "offline_end": found["offline_end"]}, tmp_path))
    assert all(f'<td>fp32 on cpu</td><td class="n">{row["batch_size"]}</td>' in shown for row in found["rows"])
    assert found["offline_end"] in shown


def test_the_peak_of_memory_is_kept_and_reset() -> None:
    if memory.resident_mib() is None:
        pytest.skip("this system doesn't say")
    if not memory.reset_peak():
        pytest.skip("this system keeps one peak only")
    before = memory.peak_resident_mib() or 0
    block = np.ones(64 * memory.MIB // 8)
    assert (memory.peak_resident_mib() or 0) >= before + 60
    del block
    memory.reset_peak()
    assert (memory.peak_resident_mib() or 0) < before + 60
    assert (memory.available_mib() or 0) > 0


@pytest.mark.parametrize(
    ("line", "folder", "files", "stat"),
    [
        ("0::/pod/box", "pod", ("memory.max", "memory.current"), "inactive_file"),
        ("0::/somewhere/else", "", ("memory.max", "memory.current"), "inactive_file"),
        (
            "4:cpu,memory:/box",
            "memory/box",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ],
)
def test_a_container_limits_what_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, files: tuple[str, str], stat: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (groups / folder).mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(line + "\n")
    (groups / folder / files[0]).write_text(f"{300 << 20}\n")
    (groups / folder / files[1]).write_text(f"{120 << 20}\n")
    (groups / folder / "memory.stat").write_text(f"anon 5\n{stat} {20 << 20}\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    assert memory.available_mib() == 200
    (groups / folder / files[0]).write_text("max\n")
    assert memory.available_mib() == pytest.approx(psutil.virtual_memory().available / memory.MIB, rel=0.5)
