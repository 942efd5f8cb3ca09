"""Versions and probes; the tests that need a GPU, where a skip is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement

from benchmarks.gpu.setting import Setting, StageError

ROOT = Path(__file__).parents[2]
EXTRAS = ("train", "gpu")
MARK = "mark.gpu"
DRY_TESTS = "tests/training/test_stopwatch.py"


def environment(setting: Setting) -> dict[str, Any]:
    """What the machine has, which pins it does not keep, and what ONNX Runtime's providers compute."""
    import torch

    from export.latency.gpu_monitor import gpu_state
    from toolkit.runtime.doctor import diagnose
    from toolkit.runtime.providers import PROVIDERS

    found = {"set_aside": set_aside(), "doctor": diagnose(), "gpu": gpu_state(), "torch": torch.__version__}
    found["torch_cuda"] = torch.version.cuda
    if not setting.dry:
        found["capability"] = torch.cuda.get_device_capability()
        found["driver"] = (found["gpu"] or {}).get("driver")
    reasons = found["doctor"]["providers"][setting.provider]["precisions"]
    failing = {name: reason for name, reason in reasons.items() if reason is not None}
    if failing:
        raise StageError(f"{PROVIDERS[setting.provider]} does not compute: {failing}", found)
    return found


def set_aside() -> list[dict[str, str | None]]:
    """Requirements of the project that the machine's packages don't meet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for name in EXTRAS for line in project["optional-dependencies"][name])]
    unmet = []
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            there: str | None = version(wanted.name)
        except PackageNotFoundError:
            there = None
        if there is None or not wanted.specifier.contains(there, prereleases=True):
            unmet.append({"requirement": str(wanted), "installed": there})
    return unmet


def gpu_tests(setting: Setting) -> dict[str, Any]:
    """``pytest -m gpu``; rehearsed with a file of such tests, whose skips don't count then."""
    report = setting.work / "tests.xml"
    marked = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in file.read_text("utf-8")]
    # no other files: what they import of further extras need not be there
    chosen = [DRY_TESTS] if setting.dry else ["-m", "gpu", *map(str, marked)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    if not report.exists():
        raise StageError("pytest wrote no report", {"output": done.stdout[-4000:] + done.stderr[-4000:]})
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    kinds = ("failure", "error", "skipped")
    outcome = {kind: [_name(case) for case in cases if case.find(kind) is not None] for kind in kinds}
    reasons = {_name(case): case.find("skipped").get("message") for case in cases if case.find("skipped") is not None}  # type: ignore[union-attr]
    found = {"tests": len(cases), "skip_reasons": reasons, "output": done.stdout[-4000:]} | outcome
    bad = outcome["failure"] + outcome["error"] + ([] if setting.dry else outcome["skipped"])
    if bad or not cases:
        raise StageError(f"{len(bad)} of {len(cases)} tests failed or were skipped: {', '.join(bad[:5])}", found)
    return found


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"
