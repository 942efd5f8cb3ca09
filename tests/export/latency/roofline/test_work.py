"""Counted operations against a closed form and against what torch counts; counted bytes against the graph's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET
from export.graph.classifier_graph import build_graph
from export.graph.config import FUSED, GraphConfig
from export.graph.subgraph import producers
from export.latency.roofline.work import Work, count_work, inferred, matmuls_of
from export.selection.search import PrecisionSearch
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.runs.finished_run import Run
from toolkit.runtime.preprocess import Preprocess

FAMILIES = ["clip", "siglip"]
SHAPE = (3, 3, 32, 32)


def made(folder: Path, head: Any = "mlp") -> tuple[Classifier, Preprocess]:
    model_config = ModelConfig(encoder=str(folder), unfreeze_last=1, head=HeadConfig(type=head))
    classifier, processor = build_classifier(model_config, ["a", "b", "c"], seed=0)
    return classifier.eval(), preprocess_from(processor)


def work_of(folder: Path, kind: Any = "pixel_values", config: GraphConfig = FUSED, batch: int = SHAPE[0]) -> Work:
    classifier, preprocess = made(folder)
    return count_work(build_graph(classifier, preprocess, {}, kind, config), [batch, *SHAPE[1:]])


def counted_by_torch(run: Callable[..., Any], *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)  # it does not know the fused attention of CPUs
    with counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        run(*inputs)
    return counter.get_total_flops()


def constant_query(classifier: Classifier) -> int:
    """Operations of SigLIP's pooling that the graph has as a constant: the projection of its learned query."""
    pooling = classifier.encoder.model.head.attention
    return int(2 * SHAPE[0] * pooling.embed_dim**2)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders[family])
    work = work_of(encoders[family])
    expected = counted_by_torch(classifier.forward, torch.zeros(SHAPE))
    if family == "siglip":
        expected -= constant_query(classifier)
    assert work.operations == expected


def test_operations_of_vit_b_32_are_those_of_the_closed_form(tmp_path: Path) -> None:
    """T tokens, D width; the last layer needs one token's query, mixture and MLP alone."""
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    classifier, preprocess = made(tmp_path, head="linear")
    t, d, p, classes = 50, 768, 512, 3
    layer = 4 * t * d * d * 2 + 2 * t * t * d * 2 + 2 * t * d * 4 * d * 2
    last = 2 * t * d * d * 2 + 2 * d * d * 2 + 2 * t * d * 2 + 2 * d * 4 * d * 2
    ends = 2 * 49 * 3072 * d + 2 * d * p + 2 * p * classes
    model = build_graph(classifier, preprocess, {}, "pixel_values")
    work = count_work(model, [1, 3, 224, 224])
    assert work.operations == 11 * layer + last + ends
    assert work.shapes[t, d, 4 * d] == work.shapes[t, 4 * d, d] == 11
    assert work.shapes[t, 64, t] == 11 * 12
    eight = count_work(model, [8, 3, 224, 224])
    assert eight.operations == 8 * work.operations
    assert (eight.weight_bytes, eight.activation_bytes > 7 * work.activation_bytes) == (work.weight_bytes, True)


@pytest.mark.parametrize("family", FAMILIES)
def test_work_is_linear_in_the_batch(family: str, encoders: dict[str, Path]) -> None:
    one, five = (work_of(encoders[family], batch=batch) for batch in (1, 5))
    for each in ("operations", "input_bytes", "output_bytes"):
        assert getattr(five, each) == 5 * getattr(one, each)
    assert five.weight_bytes == one.weight_bytes
    assert one.input_bytes == 3 * 32 * 32 * 4
    assert one.output_bytes == 2 * 3 * 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "config",
    [FUSED, GraphConfig(standard_ops_only=True), GraphConfig(fuse_skip_layernorm=False), GraphConfig(precision="fp16")],
)
def test_the_form_of_the_graph_does_not_change_its_operations(
    family: str, config: GraphConfig, encoders: dict[str, Path]
) -> None:
    plain = work_of(encoders[family])
    for kind in ("pixel_values", "image"):
        work = work_of(encoders[family], kind, config)
        assert work.operations == plain.operations
        assert work.shapes == plain.shapes or config.standard_ops_only  # standard graphs may order attention otherwise
    halves = {matmul.precision for matmul in work.matmuls}
    assert halves == ({"fp16", "fp32"} if config.precision == "fp16" else {"fp32"})
    if config.precision == "fp16":
        assert 0.5 <= work.weight_bytes / plain.weight_bytes < 0.6


@pytest.mark.parametrize("kind", ["pixel_values", "image"])
def test_rounded_graphs_do_the_same_operations_in_integers(kind: Any, finished_run: Path) -> None:
    run = Run(finished_run)
    candidates = PrecisionSearch(run, provider="cpu", threads=1)
    classifier, preprocess = run.classifier, candidates.validation.preprocess
    plain = count_work(build_graph(classifier, preprocess, {}, kind), SHAPE)
    configs = [config for config in candidates.configs.base() if config.quantization.matmuls]
    assert {config.quantization.activations for config in configs} == {"static", "dynamic"}
    for config in configs:
        work = count_work(build_graph(classifier, preprocess, {}, kind, config), SHAPE)
        assert work.operations == plain.operations
        in_integers = sum(matmul.precision == "int8" for matmul in work.matmuls)
        assert in_integers == len(config.quantization.matmuls)
        assert work.weight_bytes < 0.6 * plain.weight_bytes
        standard_ops_only = config.model_copy(update={"standard_ops_only": True})
        if config.quantization.activations == "static":
            same = count_work(build_graph(classifier, preprocess, {}, kind, standard_ops_only), SHAPE)
            assert same.operations == plain.operations
            assert sum(matmul.precision == "int8" for matmul in same.matmuls) == in_integers


def test_weights_are_counted_once_and_without_their_data(encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders["clip"])
    model = build_graph(classifier, preprocess, {}, "pixel_values")
    work = count_work(model, SHAPE)
    assert work.weight_bytes == sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) > 64:
            tensor.raw_data = b""
    assert count_work(model, SHAPE) == work


def test_bytes_of_activations_are_each_nodes_inputs_and_outputs() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="y"), helper.make_node("Relu", ["y"], ["z"], name="z")]
    values = inferred(model_of(nodes, {"w": (5, 7)}), [2, 5])
    assert [values[name].nbytes for name in "xwyz"] == [40, 140, 56, 56]


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    constants = [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s, np.float32)) for n, s in weights.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "some", [entry], [result], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "input_shape", "expected"),
    [
        ("Gemm", {}, (5, 7), (2, 5), (2, 5, 7)),
        ("Gemm", {"transB": 1}, (7, 5), (2, 5), (2, 5, 7)),
        ("Gemm", {"transA": 1}, (5, 7), (5, 2), (2, 5, 7)),
        ("MatMul", {}, (5, 7), (3, 2, 5), (6, 5, 7)),
        ("Conv", {}, (7, 3, 2, 2), (4, 3, 5, 5), (4 * 16, 12, 7)),
    ],
)
def test_operators_by_hand(
    operator: str, attributes: Any, weight: Any, input_shape: Any, expected: tuple[int, int, int]
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], name="y", **attributes)
    model = model_of([node], {"w": weight})
    (matmul,) = matmuls_of(node, inferred(model, input_shape), {"w"}, producers(model))
    assert (matmul.m, matmul.k, matmul.n) == expected
    assert matmul.operations == 2 * np.prod(expected)


def test_an_operator_that_multiplies_in_an_unknown_way_is_refused() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], name="mixed", equation="ab,bc->ac")
    model = model_of([node], {"w": (5, 7)})
    with pytest.raises(ToolkitError, match="Einsum"):
        matmuls_of(node, inferred(model, (2, 5)), {"w"}, producers(model))


def test_counting_needs_no_torch() -> None:
    code = (
        "import sys, export.latency.roofline.ceilings, export.latency.roofline.limits; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
