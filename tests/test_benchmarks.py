"""Every benchmark can be imported and says what it takes; none is run, but for parts that a small model shows."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from toolkit.runs.finished_run import Run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"broken_requests"}
"""Modules that others import, and that measure nothing themselves."""
NAMES = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert "ArgumentParser(" in source  # else it would begin to measure
    assert f"python -m benchmarks.{name}" in source or f"launch benchmarks/{name}.py" in source
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert not end.value.code
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_reduced_precision_compares_fp32_with_both_ways_of_int8(finished_run: Path, tmp_path: Path) -> None:
    from benchmarks.reduced_precision import agreements, forms_of, graphs

    run = Run(finished_run)
    forms = forms_of(run)
    assert {name: form.quantization.activations for name, form in forms.items() if form.precision == "int8"} == {
        "int8 static": "static",
        "int8 dynamic": "dynamic",
    }
    assert all(form.quantization.per_channel for name, form in forms.items() if name != "fp32")
    sizes = graphs(run, forms, tmp_path)["ratio_to_fp32"]
    assert max(sizes["int8 static"], sizes["int8 dynamic"]) < sizes["fp32"] == 1
    found = agreements(run, forms)
    assert found["fp32"]["top1_agreement"] == 1
    assert all(row["images"] == len(run.held_out(10_000)) for row in found.values())
