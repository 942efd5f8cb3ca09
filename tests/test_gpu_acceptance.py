"""The acceptance on a GPU, rehearsed: every stage of ``make gpu`` on a CPU, and what it does about stages that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import run_stages
from benchmarks.gpu.environment import MARK, set_aside
from benchmarks.gpu.speed import those_that_run
from benchmarks.gpu.stages import SECONDS, STAGES
from export.latency.runner import Runner

ROOT = Path(__file__).parents[1]


def test_every_stage_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in STAGES}
    assert {name: record["error"] for name, record in records.items() if not record["ok"]} == {}
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(record["found"] and record["dry"] for record in records.values())
    assert set(json.loads((tmp_path / "summary.json").read_text())) == set(STAGES)
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} | ok |" in table for name in STAGES)
    assert "| onnxruntime fp32 |" in table


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def test_correctness_comes_before_speed_and_every_stage_has_a_limit() -> None:
    names = list(STAGES)
    assert set(SECONDS) == set(STAGES)
    assert max(map(names.index, ("tests", "placement", "numbers", "training", "resume"))) < names.index("rivals")


STAGES_OF_TWO = """
import os, time
def good(setting): return {"fine": True}
def bad(setting): raise RuntimeError("a check failed")
def dies(setting): os._exit(9)
def hangs(setting): time.sleep(60)
"""


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("bad", "a check failed"),
        ("dies", "the process ended with 9"),
        pytest.param("hangs", "it took more than 5 s", marks=pytest.mark.slow),
    ],
)
def test_a_stage_that_fails_leaves_its_record_and_the_next_ones_run(
    second: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are real ones in a package of the test's own, beside the driver's and the worker's own code."""
    package = tmp_path / "site" / "benchmarks" / "gpu"
    package.mkdir(parents=True)
    for file in (ROOT / "benchmarks" / "gpu").glob("*.py"):
        (package / file.name).write_text(file.read_text())
    stages = {"first": "trial:good", "second": f"trial:{second}", "third": "trial:good"}
    seconds = dict.fromkeys(stages, 60) | {"second": 1}
    (package / "stages.py").write_text(f"STAGES = {stages!r}\nSECONDS = {seconds!r}\n")
    (package / "trial.py").write_text(STAGES_OF_TWO)
    monkeypatch.setattr("benchmarks.gpu.__main__.SECONDS", seconds)
    monkeypatch.setattr("benchmarks.gpu.__main__.ROOT", tmp_path / "site")
    out, work = tmp_path / "out", tmp_path / "work"
    for folder in (out, work):
        folder.mkdir()
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    run_stages(list(stages), out, work, dry=True, environment=os.environ | {"PYTHONPATH": path})
    records = {name: json.loads((out / f"{name}.json").read_text()) for name in stages}
    assert {name: record["ok"] for name, record in records.items()} == {"first": True, "second": False, "third": True}
    assert says in records["second"]["error"]
    assert records["third"]["found"] == {"fine": True}


def test_pins_that_the_machine_keeps_are_not_set_aside() -> None:
    """This environment is what CI tests, so the ranges admit it."""
    assert [each for each in set_aside() if each["installed"] is not None] == []


def test_a_rival_that_fails_costs_the_others_nothing() -> None:
    def broken() -> Runner:
        raise RuntimeError("no C compiler")

    def fails_at_two(batch: int) -> None:
        if batch == 2:
            raise RuntimeError("captured once")

    ran: list[int] = []
    makers = {
        "broken": broken,
        "captured": lambda: Runner("captured", "fp32", "cpu", 1, fails_at_two),
        "good": lambda: Runner("good", "fp32", "cpu", 1, ran.append),
    }
    engines, refused = those_that_run(makers, [1, 2])
    assert [engine.name for engine in engines] == ["good"]
    assert refused == {"broken": "RuntimeError: no C compiler", "captured": "RuntimeError: captured once"}
    assert ran == [1, 2]


@pytest.mark.slow
def test_every_test_with_the_mark_is_found() -> None:
    """pytest is given files by their text, so that those of other extras are not even imported."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider"]
    marked = [file for file in (ROOT / "tests").rglob("test_*.py") if MARK in file.read_text()]
    done = subprocess.run([*command, *map(str, marked)], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert {"tests/export/test_cuda.py", "tests/export/graph/test_half.py", "tests/runtime/test_tensorrt.py"} <= found
    assert {"tests/runtime/test_binding.py", "tests/training/test_stopwatch.py"} <= found
