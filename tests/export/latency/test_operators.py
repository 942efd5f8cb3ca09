"""The milliseconds of a graph by operator: those of the nodes that a session ran, none counted twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from export.latency.operators import CONTROL_FLOW, by_operator
from toolkit.runtime.node_profile import ExecutedNode
from toolkit.runtime.session import Session


def executed(bundle: Path, runs: int) -> list[ExecutedNode]:
    feed = {"image": np.random.default_rng(0).integers(0, 256, (1, 40, 52, 3), np.uint8)}
    return Session(bundle / "model.onnx", threads=1, record_nodes=True).executed_nodes(feed, runs)


def test_many_runs_have_the_nodes_of_one(finished_bundle: Path) -> None:
    one, several = executed(finished_bundle, 1), executed(finished_bundle, 5)
    assert [(node.name, node.operator) for node in one] == [(node.name, node.operator) for node in several]
    assert all(node.seconds >= 0 for node in several)


def test_the_parts_are_all_of_it(finished_bundle: Path) -> None:
    nodes = executed(finished_bundle, 5)
    found = by_operator(nodes)
    assert found["ms"] == pytest.approx(sum(found["parts"].values())) == pytest.approx(sum(found["operators"].values()))
    assert set(found["operators"]) == {node.operator for node in nodes} - CONTROL_FLOW
    assert {"preprocessing", "matmuls", "norms"} <= set(found["parts"])
    whole = 1000 * sum(node.seconds for node in nodes)
    inside = Counter(node.operator in CONTROL_FLOW for node in nodes)
    assert (found["ms"] < whole) == (inside[True] > 0)


def test_a_branch_is_not_counted_beside_its_nodes() -> None:
    nodes = [
        ExecutedNode("preprocess/resized/MatMul", "MatMul", "CPUExecutionProvider", 2e-3),
        ExecutedNode("preprocess/resized", "If", "CPUExecutionProvider", 3e-3),
        ExecutedNode("encoder.fc1", "MatMulIntegerToFloat", "CPUExecutionProvider", 4e-3),
        ExecutedNode("encoder.norm", "LayerNormalization", "CPUExecutionProvider", 1e-3),
        ExecutedNode("encoder.add", "Add", "CPUExecutionProvider", 1e-3),
    ]
    assert by_operator(nodes)["parts"] == {"matmuls": 4.0, "preprocessing": 2.0, "norms": 1.0, "other": 1.0}
