"""Ceilings are measured on the matmuls that were counted, and compute what they should; no test says how fast."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from markupsafe import escape
from onnx import numpy_helper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from export.graph.openvino_check import MATMULS
from export.latency.measure import MinSamples, Samples, WarmUp
from export.latency.roofline import ceilings
from export.latency.roofline.ceilings import (
    best_seconds,
    ceiling_engines,
    matmuls_model,
    measure_ceilings,
    measure_copy,
    open_matmuls,
)
from export.latency.roofline.limits import add_shares, best_of, limits
from export.latency.roofline.work import Matmul, Work, count_work
from export.latency.runner import Block, Runner
from toolkit.errors import ToolkitError
from toolkit.progress import Progress
from toolkit.reporting.limits_section import limits_section
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.providers import runs_here
from toolkit.runtime.session import Session

LEAST = MinSamples(1, 0)
FLOAT = (Matmul(3, 5, 7, "fp32"), Matmul(3, 5, 7, "fp32"), Matmul(3, 5, 3, "fp32", together=4, constant=False))
INTEGER = (*FLOAT, Matmul(2, 8, 4, "int8"))


def work(matmuls: tuple[Matmul, ...]) -> Work:
    return Work(1, matmuls, weight_bytes=0, input_bytes=0, output_bytes=0, activation_bytes=0)


def test_products_stand_side_by_side_with_a_matrix_of_their_own_each() -> None:
    model = matmuls_model(INTEGER)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul", "MatMul", "MatMulIntegerToFloat"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert not np.array_equal(constants["w.0"], constants["w.1"])
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for entry in model.graph.input:
        shape = [side.dim_value for side in entry.type.tensor_type.shape.dim]
        integer = entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        inputs[entry.name] = rng.integers(0, 256, shape, np.uint8) if integer else rng.normal(size=shape)
        inputs[entry.name] = inputs[entry.name].astype(np.uint8 if integer else np.float32)
    session = Session(model.SerializeToString(), threads=1)
    given = session.compute([f"y.{number}" for number in range(4)], inputs)
    x = inputs["x.fp32.3x5"]
    expected = [x @ constants["w.0"], x @ constants["w.1"], inputs["x.fp32.4x3x5"] @ inputs["w.fp32.4x5x3"]]
    expected.append((inputs["x.int8.2x8"].astype(np.float32) - 128) / 32 @ constants["w.3"])
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_as_many_matrices_as_the_network_has(finished_bundle: Path) -> None:
    bundle = Bundle(finished_bundle)
    counted = count_work(onnx.load(finished_bundle / bundle.graph_name()), [2, 3, 32, 32])
    model = matmuls_model(counted.matmuls)
    sizes = sum(np.prod(tensor.dims) for tensor in model.graph.initializer)
    assert sizes == sum(matmul.k * matmul.n for matmul in counted.matmuls if matmul.constant)
    assert len(model.graph.output) == len(counted.matmuls)


def test_torch_stands_beside_graphs_without_integers() -> None:
    found = measure_ceilings(work(FLOAT), precision="fp32", threads=1, least=LEAST)
    assert set(found) == {"onnxruntime", "torch"}
    assert all(0 < rate < 1e5 for rate in found.values())
    assert set(measure_ceilings(work(INTEGER), precision="int8", threads=1, least=LEAST)) == {"onnxruntime"}


class TestOpenVino:
    """The same matmuls on OpenVINO."""

    @pytest.fixture(autouse=True)
    def _openvino(self) -> None:
        pytest.importorskip("openvino")

    def test_it_multiplies_what_was_counted_in_the_types_that_were(self) -> None:
        matmuls = (*FLOAT, *(Matmul(4, 64, 64, "int8"),) * 2)
        model, session = matmuls_model(matmuls, standard_ops_only=True), open_matmuls(matmuls, 1)
        assert {node.domain for node in model.graph.node} == {""}
        rng, weights = np.random.default_rng(0), {each.name: each for each in model.graph.initializer}
        feed = {name: rng.normal(size=spec.shape).astype(np.float32) for name, spec in session.inputs.items()}
        given = session.compute(["y.0", "y.2", "y.3"], feed)
        levels = np.clip(np.rint(feed["x.fp32.4x64"] * 32), -128, 127) / 32
        expected = [
            feed["x.fp32.3x5"] @ numpy_helper.to_array(weights["w.0"]),
            feed["x.fp32.4x3x5"] @ feed["w.fp32.4x5x3"],
            levels @ numpy_helper.to_array(weights["w.3"]).astype(np.float32),
        ]
        for ours, theirs in zip(given, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        kinds = Counter(node.element for node in session.executed_nodes({}, runs=0) if node.operator in MATMULS)
        assert kinds["u8"] + kinds["i8"] == 2
        assert kinds["f32"] == 3

    def test_bf16_is_multiplied_in_bf16(self) -> None:
        if not runs_here("bf16", "openvino"):
            pytest.skip("the processor has no bf16")
        session = open_matmuls([Matmul(4, 64, 64, "bf16")], 1)
        assert [(node.operator, node.element) for node in session.executed_nodes({}, runs=0)] == [
            ("Transpose", "bf16"),  # of the constant, once
            ("FullyConnected", "bf16"),
        ]

    def test_integers_beside_bf16_are_rounded_once_and_nothing_else_is_converted(self) -> None:
        if not runs_here("bf16", "openvino"):
            pytest.skip("the processor has no bf16")
        matmuls = (*(Matmul(64, 64, 64, "int8"),) * 2, Matmul(8, 64, 8, "bf16", together=4, constant=False))
        nodes = open_matmuls(matmuls, 1).executed_nodes({}, runs=0)
        assert Counter(node.operator for node in nodes if node.operator != "Transpose") == {
            "Subgraph": 1,  # the rounding
            "FullyConnected": 2,
            "MatMul": 1,
        }
        assert {node.element for node in nodes if node.operator == "FullyConnected"} == {"u8"}

    def test_torch_stands_beside_graphs_without_integers(self) -> None:
        found = measure_ceilings(work(FLOAT), precision="fp32", threads=1, provider="openvino", least=LEAST)
        assert set(found) == {"openvino", "torch"}
        found = measure_ceilings(work(INTEGER), precision="int8", threads=1, provider="openvino", least=LEAST)
        assert set(found) == {"openvino"}


def test_without_torch_the_runtime_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "find_spec", lambda name: None)
    assert set(measure_ceilings(work(FLOAT), precision="fp32", threads=1, least=LEAST)) == {"onnxruntime"}


def test_torch_multiplies_each_product_once_a_run() -> None:
    counted = work((*FLOAT, Matmul(4, 4, 4, "fp32"), Matmul(2, 3, 2, "fp16", together=2, constant=False)))
    run = ceilings.torch_matmuls(counted.matmuls, threads=torch.get_num_threads())
    with FlopCounterMode(display=False) as counter:
        run(None)
    assert counter.get_total_flops() == counted.operations


def test_torch_multiplies_bf16_in_bf16() -> None:
    kinds: list[str] = []

    class Kinds(TorchDispatchMode):
        """Notes in what each matmul is computed."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kinds.extend(str(each.dtype) for each in args if isinstance(each, torch.Tensor))
            return function(*args, **kwargs or {})

    matmuls = Matmul(4, 8, 8, "bf16"), Matmul(4, 8, 4, "bf16", together=2, constant=False), Matmul(4, 8, 2, "fp32")
    run = ceilings.torch_matmuls(matmuls, threads=torch.get_num_threads())
    with Kinds():
        run(None)
    assert set(kinds[:-2]) == {"torch.bfloat16"}
    assert set(kinds[-2:]) == {"torch.float32"}


def test_ceilings_are_measured_on_cpus_alone() -> None:
    with pytest.raises(ToolkitError, match="cuda"):
        ceiling_engines(work(FLOAT), precision="fp32", threads=1, provider="cuda")


def test_a_ceiling_is_the_median_of_the_best_block() -> None:
    engine = Runner("matmuls", "fp32", "cpu", 1, lambda _: None)
    blocks = Block((5, 1, 9)), Block((3, 4)), Block((2,))
    samples = Samples(engine, blocks, WarmUp((1.0,), None))
    assert samples.block_medians == [5, 3.5, 2]
    assert best_seconds(samples) == 2


def test_copying_gives_a_rate() -> None:
    assert 0 < measure_copy(2, nbytes=1 << 20, copies=2) < 1e5


def test_the_better_library_makes_the_best_ceiling() -> None:
    runtime, torch_rates = {"fp32": {"1": 10.0, "8": 30.0}, "int8": {"1": 50.0}}, {"fp32": {"1": 20.0, "8": 15.0}}
    found = best_of(runtime, torch_rates)
    assert found["best_gflops"] == {"fp32": {"1": 20.0, "8": 30.0}, "int8": {"1": 50.0}}
    assert found["best_library"] == "onnxruntime or torch"
    assert best_of(runtime, {})["torch_gflops"] is None


def test_rows_get_the_share_that_they_attained() -> None:
    found = {
        "work": [{"precision": "fp32", "batch_size": 8, "gflop": 2.0}],
        "ceilings": {"runtime_gflops": {"fp32": {"8": 50.0}}, "best_gflops": {"fp32": {"8": 80.0}}},
    }
    rows = [
        {"precision": "fp32", "batch_size": 8, "engine": "onnxruntime", "p50_ms": 50.0},
        {"precision": "fp32", "batch_size": 8, "engine": "torch-eager", "p50_ms": 100.0},
        {"precision": "fp32", "batch_size": 1, "engine": "onnxruntime", "p50_ms": 50.0},
    ]
    add_shares(rows, found)
    shares = {"gflops_per_s": 40.0, "share_of_ceiling": 0.8, "share_of_best_ceiling": 0.5}
    assert {key: rows[0][key] for key in shares} == shares
    assert rows[1]["share_of_ceiling"] == pytest.approx(0.4)
    assert "gflops_per_s" not in rows[2]
    add_shares(rows[2:], {"left_out": "onnx is not installed"})
    assert "gflops_per_s" not in rows[2]


class Steps(Progress):
    steps = 0

    def step(self) -> None:
        self.steps += 1


def test_limits_of_a_bundle(finished_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(Path(shutil.copytree(finished_bundle, tmp_path / "bundle")))
    progress = Steps()
    found = limits(bundle, {"fp32": [1, 2]}, provider="cpu", threads=1, least=LEAST, progress=progress)
    assert progress.steps
    assert set(found["ceilings"]["runtime_gflops"]["fp32"]) == {"1", "2"}
    assert found["ceilings"]["copy_gib_s"] > 0
    assert [entry["batch_size"] for entry in found["work"]] == [1, 2]
    assert found["work"][1]["gflop"] == 2 * found["work"][0]["gflop"]
    for entry in found["network"]:
        share = entry["share_by_block"]
        assert 0 < share["min"] <= share["p50"] <= share["max"]
        ceiling = found["ceilings"]["runtime_gflops"]["fp32"][str(entry["batch_size"])]
        assert entry["share_of_ceiling"] == pytest.approx(entry["gflops_per_s"] / ceiling)
        assert entry["share_of_best_ceiling"] <= entry["share_of_ceiling"]
    assert "preprocessing" in found["notes"][0]
    row = {"engine": "onnxruntime", "precision": "fp32", "provider": "cpu", "batch_size": 2, "p50_ms": 1.0}
    shown = limits_section({"rows": [row], "limits": found}, tmp_path)
    assert all(f"<td>{library} fp32</td>" in shown for library in ("onnxruntime", "torch"))
    assert "The network alone, in turns with the matmuls" in shown
    assert escape(found["notes"][0][1:]) in shown
    left_out = limits(bundle, {"fp32": [1]}, provider="cuda", threads=1)
    assert left_out["left_out"] in limits_section({"rows": [row], "limits": left_out}, tmp_path)
    assert "cuda" in limits(bundle, {"fp32": [1]}, provider="cuda", threads=1)["left_out"]
    monkeypatch.setattr("export.latency.roofline.limits.find_spec", lambda name: None)
    assert "onnx" in limits(bundle, {"fp32": [1]}, provider="cpu", threads=1)["left_out"]
