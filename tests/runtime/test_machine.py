from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.runtime import machine


@pytest.mark.parametrize("limit", ["max", 1_000, 49_000, 100_000, 100_000_000])
def test_usable_cores_lie_between_one_and_those_of_the_machine(limit: object, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{limit} 100000\n")
    cores = machine.usable_cores(tmp_path)
    assert 1 <= cores <= (os.cpu_count() or 1)
    if limit in ("max", 100_000_000):
        assert cores == machine.usable_cores(tmp_path / "nothing")
    else:
        assert cores == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes")
def test_a_process_that_is_bound_to_one_core_uses_one() -> None:
    script = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from toolkit.runtime.machine import usable_cores\n"
        "print(usable_cores())"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["1"]


def test_the_description_fits_into_json_and_agrees_with_its_parts() -> None:
    described = machine.describe_machine()
    assert json.loads(json.dumps(described)) == described
    assert described["usable_cores"] == machine.usable_cores()
    assert described["cpu_quota"] == machine.cpu_quota()
    assert described["processor"]
    assert described["memory_gib"] is None or described["memory_gib"] > 0
