"""Graphs for CUDA: what runs where, which copies that takes, and that they compute what other forms compute."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from half_cases import in_fp32, made, pixels, types
from onnx import TensorProto, helper
from transformers import CLIPImageProcessorPil

from benchmarks.gpu.cuda_placement import placed
from export.graph.builder import GraphBuilder
from export.graph.classifier_graph import build_graph
from export.graph.config import FUSED, GraphConfig, config_of
from export.graph.half import HalfPrecision, network_graph, to_half
from export.graph.preprocessing import IMAGE, PIXEL_VALUES, add_preprocessing
from export.graph.subgraph import producers
from export.precision.half_reference import half_reference
from export.precision.overflow import overflowing
from export.selection.configs import ConfigMaker
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT
from toolkit.runs.finished_run import Run
from toolkit.runtime.session import Session

HERE = Path(__file__).parent
FIRST_LOOK = HERE.parents[2] / "benchmarks" / "results" / "gpu_first_look.json"
BEFORE = HERE / "resize_before.onnx"
"""The resize to 224 pixels as it was when it ran on a GPU: graphs whose plan lay on the device."""
CUDA = GraphConfig(patches_as_matmul=True)


def resize(side: int) -> onnx.ModelProto:
    """CLIP's preprocessing to ``side`` pixels, as a graph of its own."""
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    preprocess = preprocess_from(CLIPImageProcessorPil(**size))
    builder = GraphBuilder()
    add_preprocessing(builder, preprocess)
    entry = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", "height", "width", 3])
    given = helper.make_tensor_value_info(PIXEL_VALUES, TensorProto.FLOAT, ["batch", 3, side, side])
    graph = helper.make_graph(builder.nodes, "resize", [entry], [given], list(builder.initializers.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_the_rules_foretell_what_was_seen_on_a_gpu() -> None:
    """Operators on the host, and copies, of an H100's profile of the graph whose resize lies beside this file."""
    seen = json.loads(FIRST_LOOK.read_text())["stages"]["run image fp32"]["nodes"]
    found = placed(onnx.load(BEFORE))
    assert found.host == Counter(seen["CPUExecutionProvider"])
    on_device = seen["CUDAExecutionProvider"]
    assert (found.to_host, found.to_device) == (on_device["MemcpyToHost"], on_device["MemcpyFromHost"]) == (60, 12)
    resizing = ("Floor", "Abs", "Where", "Sign", "Range", "ReduceMax", "ReduceMin", "Less", "Gather", "Clip", "If")
    assert {name: found.device[name] for name in resizing} == {name: on_device[name] for name in resizing}


@pytest.mark.parametrize("side", [32, 224, 336, 384, 518])
@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_the_resize_copies_nothing_back_to_the_host(side: int, branch: str) -> None:
    found = placed(resize(side), branch)
    assert found.to_host == 0
    assert found.host["Split"] == 2
    assert found.device["Slice"] > 1
    assert found.device["MatMul"] == 2


def test_a_long_constant_would_take_the_plan_off_the_host() -> None:
    """What the plan's short constants are for: the graph before has one of 224 elements, this one none over 100."""
    long_ones = {tensor.name for tensor in onnx.load(BEFORE).graph.initializer if np.prod(tensor.dims) > 100}
    assert long_ones
    assert [tensor.name for tensor in resize(224).graph.initializer if np.prod(tensor.dims) > 100] == []


def logits_of(model: onnx.ModelProto) -> np.ndarray:
    return Session(model.SerializeToString(), threads=1).run({"pixel_values": pixels().numpy()})["logits"]


@torch.inference_mode()
def floor_of(classifier: Classifier, precision: HalfPrecision) -> tuple[np.ndarray, float]:
    """The reference's logits, and what rounding to half changes of them."""
    expected = classifier.reference_logits(pixels()).numpy()
    rounded = half_reference(classifier, precision, patches_as_matmul=True).reference_logits(pixels()).numpy()
    return expected, float(np.abs(rounded - expected).max())


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "dinov3_vit", "vit", "blip"])
def test_patches_by_a_matmul_give_the_same_logits(family: str, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    plain, moved = (build_graph(classifier, preprocess, {}, "pixel_values", config) for config in (FUSED, CUDA))
    onnx.checker.check_model(moved, full_check=True)
    assert [node.op_type for node in plain.graph.node].count("Conv") == 1
    assert "Conv" not in {node.op_type for node in moved.graph.node}
    assert config_of(moved).patches_as_matmul
    with torch.inference_mode():
        expected = classifier.reference_logits(pixels()).numpy()
    assert np.abs(logits_of(moved) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    name = next(node.name for node in plain.graph.node if node.op_type == "Conv")
    assert name in producers(moved)  # so that a bisection finds it


@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_patch_embedding_is_half_too(
    family: str, precision: HalfPrecision, graph_input: str, encoders: dict[str, Path]
) -> None:
    """In bf16 as well: what has no kernel there is padding alone, which only moves values."""
    classifier, preprocess = made(encoders[family])
    model = build_graph(classifier, preprocess, {}, graph_input, CUDA)  # type: ignore[arg-type]
    converted = to_half(model, precision)
    known = types(converted)
    half = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    patches = [name for name in known if name.endswith(("patch_embedding", "patch_embedding/MatMul"))]
    assert patches
    assert {known[name] for name in patches} == {half}
    single = {n for n, kind in known.items() if n.startswith("encoder.") and kind == TensorProto.FLOAT}
    single = {name for name in single if not name.endswith(("/single", "/Pad"))}
    assert {name.rpartition("/")[2] for name in single} <= {"Reshape", "Transpose", "Reshape.2"}
    expected, floor = floor_of(classifier, precision)
    if graph_input == "pixel_values":
        got = logits_of(in_fp32(converted) if precision == "bf16" else converted)
        assert 0 < np.abs(got - expected).max() <= 8 * floor


def test_a_size_that_patches_do_not_cover_keeps_the_convolution(encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders["clip"])
    operators = {node.op_type for node in network_graph(classifier, CUDA, (32, 36)).graph.node}
    assert "Conv" in operators


def test_only_graphs_that_have_it_say_so(encoders: dict[str, Path]) -> None:
    """Graphs for CPUs keep the bytes that they had."""
    assert "patches_as_matmul" not in FUSED.model_dump(mode="json", by_alias=True)
    assert "patches_as_matmul" not in json.loads(FUSED.model_dump_json())
    assert json.loads(CUDA.model_dump_json())["patches_as_matmul"] is True
    assert GraphConfig.model_validate_json(CUDA.model_dump_json()) == CUDA
    assert GraphConfig.model_validate_json(FUSED.model_dump_json()) == FUSED


@pytest.mark.parametrize(("provider", "wanted"), [("cpu", False), ("cuda", True), ("tensorrt", False)])
def test_graphs_for_cuda_have_it(provider: str, wanted: bool, finished_run: Path) -> None:
    maker = ConfigMaker(Run(finished_run), provider=provider, threads=1, calibration_images=2, progress=SILENT)
    assert [maker.plain(each).patches_as_matmul for each in ("fp32", "fp16", "bf16")] == [wanted] * 3


def test_an_overflow_of_the_patches_is_found_under_the_matmuls_names(encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders["clip"])
    weight = classifier.encoder.tower.patches.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight *= 2.0**20
    found = overflowing(classifier, [{"pixel_values": pixels().numpy()}], patches_as_matmul=True)
    name = "encoder.model.vision_model.embeddings.patch_embedding"
    assert name in found
    kept = types(to_half(build_graph(classifier, preprocess, {}, "pixel_values", CUDA), "fp16", found))
    assert kept[name] == TensorProto.FLOAT
