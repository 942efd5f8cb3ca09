from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from export.latency.compare import compare
from toolkit.errors import ToolkitError

ROW = {
    "engine": "onnxruntime",
    "provider": "cpu",
    "precision": "fp32",
    "batch_size": 1,
    "p50_ms": 10.0,
    "p99_ms": 12.0,
    "throughput_ips": 100.0,
    "threads": 2,
    "scenario": "SingleStream",
    "intervals": {"p50_ms": [9.5, 10.5]},
}
FILE: dict[str, Any] = {"rows": [ROW], "machine": {"processor": "A CPU", "usable_cores": 2, "throttled": []}}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("p50", "interval", "verdict"),
    [
        (20.0, [19.0, 21.0], "slower"),
        (5.0, [4.0, 6.0], "faster"),
        (10.4, [9.9, 11.0], "no difference"),
        (20.0, None, "unknown"),
    ],
)
def test_the_verdict_follows_the_intervals(tmp_path: Path, p50: float, interval: Any, verdict: str) -> None:
    other = copy.deepcopy(FILE)
    other["rows"][0] |= {"p50_ms": p50, "intervals": {"p50_ms": interval} if interval else {}}
    outcome = compare(written(tmp_path, "a.json", FILE), written(tmp_path, "b.json", other))
    (row,) = outcome["rows"]
    assert row["verdict"] == verdict
    assert row["p50_ratio"] == pytest.approx(p50 / 10)
    assert outcome["warnings"] == []


def test_another_machine_other_settings_and_disturbances_are_said(tmp_path: Path) -> None:
    other = copy.deepcopy(FILE)
    other["machine"] |= {"processor": "another", "throttled": ["it was hot"]}
    other["rows"][0]["threads"] = 8
    other["rows"].append(ROW | {"batch_size": 64})
    outcome = compare(written(tmp_path, "a.json", FILE), written(tmp_path, "b.json", other))
    said = "\n".join(outcome["warnings"])
    assert "processor A CPU in A, another in B" in said
    assert "threads 2 in A, 8 in B" in said
    assert "it was hot" in said
    assert outcome["only_in_b"] == [["onnxruntime", "cpu", "fp32", 64]]


def test_graphs_are_compared_where_both_files_measured_them(tmp_path: Path) -> None:
    one, two = FILE | {"graphs": {"fp32": "a", "int8": "b"}}, FILE | {"graphs": {"fp32": "a"}}
    assert compare(written(tmp_path, "a.json", one), written(tmp_path, "b.json", two))["warnings"] == []
    other = written(tmp_path, "c.json", FILE | {"graphs": {"fp32": "c"}})
    assert compare(tmp_path / "a.json", other)["warnings"] == ["another graph: the hashes of fp32 differ"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("no json", "no latency file"), ({"rows": [{}]}, "no latency file"), ([], "no latency file")],
)
def test_what_is_no_latency_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        compare(written(tmp_path, "a.json", FILE), written(tmp_path, "b.json", content))
    with pytest.raises(ToolkitError, match="No such file"):
        compare(tmp_path / "nothing.json", written(tmp_path, "a.json", FILE))


def test_files_without_a_common_row_are_refused(tmp_path: Path) -> None:
    other = copy.deepcopy(FILE)
    other["rows"][0]["precision"] = "int8"
    with pytest.raises(ToolkitError, match="no row in common"):
        compare(written(tmp_path, "a.json", FILE), written(tmp_path, "b.json", other))
