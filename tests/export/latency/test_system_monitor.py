from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path

import pytest

from export.latency.system_monitor import monitored


def test_the_machine_is_described_after_the_measurement() -> None:
    with monitored("cpu") as seen:
        time.sleep(0.05)
    assert seen.facts["load_average"][0] >= 0
    assert 0 <= seen.facts["stolen_share"] <= 1
    assert "gpu" not in seen.facts


def _spin(started: Semaphore, ended: Event) -> None:
    started.release()
    while not ended.is_set():
        pass


def test_other_processes_that_take_the_cores_are_said() -> None:
    spawning = multiprocessing.get_context("spawn")
    started, ended = spawning.Semaphore(0), spawning.Event()
    processes = [spawning.Process(target=_spin, args=(started, ended)) for _ in range(8)]
    for process in processes:
        process.start()
    for _ in processes:
        started.acquire()
    with monitored("cpu") as seen:
        time.sleep(1.5)
    ended.set()
    for process in processes:
        process.join()
    assert any("other processes took" in sentence for sentence in seen.facts["throttled"])


@pytest.mark.parametrize(
    ("member", "file", "key", "a_millisecond"),
    [
        ("4:cpu,cpuacct:/job", "cpu,cpuacct/job/cpu.stat", "throttled_time", 10**6),
        ("0::/job", "job/cpu.stat", "throttled_usec", 10**3),
    ],
    ids=["v1", "v2"],
)
def test_a_quota_that_throttles_is_said(member: str, file: str, key: str, a_millisecond: int, tmp_path: Path) -> None:
    """By control groups of both versions, in nanoseconds and in microseconds."""
    stat = tmp_path / "sys/fs/cgroup" / file
    stat.parent.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{member}\n")
    stat.write_text(f"nr_periods 1000\n{key} {5 * a_millisecond}\n")
    with monitored("cpu", tmp_path) as seen:
        stat.write_text(f"nr_periods 2000\n{key} {255 * a_millisecond}\n")
    assert seen.facts["quota_throttled_ms"] == 250
    assert "the container's CPU quota held it back for 250 ms" in seen.facts["throttled"]
