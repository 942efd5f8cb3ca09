"""Graphs in half precision: who computes in what, and that they compute what the classifier computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import pytest
import torch
from half_cases import LAYER, in_fp32, made, pixels, scale_hidden_layer, scale_values, types
from onnx import TensorProto, helper, numpy_helper

from export.graph.classifier_graph import build_graph
from export.graph.half import ELEMENT_TYPES, TORCH_TYPES, HalfPrecision, to_half
from export.graph.subgraph import preprocessing_part, producers
from export.precision.half_reference import half_reference
from export.precision.overflow import overflowing
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.runtime.session import Session, loadable_providers

FAMILIES, PRECISIONS = ["clip", "siglip"], get_args(HalfPrecision)
FLOOR_MULTIPLE = 8
"""The tolerance, in differences that PyTorch's own rounding to half makes."""
RANDOM = np.random.default_rng(0)


@torch.inference_mode()
def logits(classifier: Classifier, pixel_values: torch.Tensor) -> np.ndarray[Any, Any]:
    return classifier.reference_logits(pixel_values).numpy()


def floor(classifier: Classifier, precision: HalfPrecision, keep_fp32: Any = ()) -> float:
    """What PyTorch's own rounding changes."""
    inputs = pixels()
    return float(
        np.abs(logits(half_reference(classifier, precision, keep_fp32), inputs) - logits(classifier, inputs)).max()
    )


def cast_names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.name.endswith(("/half", "/single"))]


@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_is_half_and_the_rest_is_not(
    family: str,
    head: str,
    precision: HalfPrecision,
    graph_input: Literal["image", "pixel_values"],
    encoders: dict[str, Path],
) -> None:
    model = build_graph(*made(encoders[family], head), {}, graph_input)
    before = model.SerializeToString()
    converted = to_half(model, precision)
    onnx.checker.check_model(converted, full_check=True)
    assert model.SerializeToString() == before
    assert converted.graph.input == model.graph.input
    assert converted.graph.output == model.graph.output
    assert converted.metadata_props == model.metadata_props
    known, half = types(converted), ELEMENT_TYPES[precision]
    embedding = "encoder.model.visual_projection" if family == "clip" else "encoder.model.head"
    computed = [name for name, node in producers(converted).items() if name in known and node.op_type != "Cast"]
    encoder = {name for name in computed if name.startswith("encoder.") and known[name] != TensorProto.INT64}
    single = {name for name in encoder if known[name] == TensorProto.FLOAT}
    patches = {name for name in encoder if "patch_embedding" in name or name.endswith("embeddings/Pad")}
    assert single == (patches if precision == "bf16" else set())
    assert {known[name] for name in encoder - single} == {half}
    assert {known[name] for name in set(computed) - encoder} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert known["logits"] == known["probabilities"] == known["temperature"] == TensorProto.FLOAT
    assert cast_names(converted)[-1] == f"{embedding}/single"
    assert len(cast_names(converted)) == 2
    if graph_input == "image":
        assert preprocessing_part(converted) == preprocessing_part(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_fp16_graph_gives_the_logits_on_the_cpu(family: str, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    converted = to_half(build_graph(classifier, preprocess, {}, "pixel_values"), "fp16")
    got, probabilities = Session(converted.SerializeToString()).run({"pixel_values": pixels().numpy()}).values()
    assert got.dtype == probabilities.dtype == np.float32
    difference = np.abs(got - logits(classifier, pixels())).max()
    assert 0 < difference <= FLOOR_MULTIPLE * floor(classifier, "fp16")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_fp16_graph_prepares_images_as_before(family: str, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    model = build_graph(classifier, preprocess, {}, "image")
    image = RANDOM.integers(0, 256, (2, 45, 60, 3), np.uint8)
    expected = Session(model.SerializeToString()).run({"image": image})["logits"]
    got = Session(to_half(model, "fp16").SerializeToString()).run({"image": image})["logits"]
    assert 0 < np.abs(got - expected).max() <= FLOOR_MULTIPLE * floor(classifier, "fp16")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_graph_needs_another_provider_than_the_cpu(family: str, encoders: dict[str, Path]) -> None:
    """Computed in fp32 with the same weights it is right."""
    classifier, preprocess = made(encoders[family])
    converted = to_half(build_graph(classifier, preprocess, {}, "pixel_values"), "bf16")
    with pytest.raises(ToolkitError, match="Could not find an implementation"):
        Session(converted.SerializeToString())
    got = Session(in_fp32(converted).SerializeToString()).run({"pixel_values": pixels().numpy()})["logits"]
    difference = np.abs(got - logits(classifier, pixels())).max()
    assert 0 < difference <= FLOOR_MULTIPLE * floor(classifier, "bf16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.skipif(
    torch.cuda.is_available() and loadable_providers()["cuda"] is not None,
    reason="ONNX Runtime's CUDA provider does not load",
)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_half_graph_runs_on_cuda(family: str, precision: HalfPrecision, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    converted = to_half(build_graph(classifier, preprocess, {}, "pixel_values"), precision)
    got = Session(converted.SerializeToString(), provider="cuda").run({"pixel_values": pixels().numpy()})["logits"]
    assert np.abs(got - logits(classifier, pixels())).max() <= FLOOR_MULTIPLE * floor(classifier, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_rounded_to_nearest_even(precision: HalfPrecision, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders["clip"])
    fc1 = f"{LAYER['clip']}.mlp.fc1"
    bits = {"fp16": 10, "bf16": 7}[precision]
    ties = torch.tensor([1 + 2.0 ** -(bits + 1), 1 + 3 * 2.0 ** -(bits + 1)])
    weight = classifier.get_submodule(fc1).weight
    weight.data[0, :2] = ties  # type: ignore[index, union-attr]
    constants = {t.name: t for t in to_half(build_graph(classifier, preprocess, {}), precision).graph.initializer}
    got = numpy_helper.to_array(constants[f"{fc1}.weight^T"]).astype(np.float32)
    assert np.array_equal(got, weight.detach().T.to(TORCH_TYPES[precision]).float().numpy())  # type: ignore[union-attr, operator]
    assert got[:2, 0].tolist() == [1, 1 + 2.0 ** -(bits - 1)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
def test_the_same_arguments_give_the_same_bytes(
    graph_input: Literal["image", "pixel_values"], precision: HalfPrecision, encoders: dict[str, Path]
) -> None:
    names = [f"{LAYER['siglip']}.mlp.{part}" for part in ("fc1", "fc2/MatMul", "activation_fn")]
    first, second = (
        to_half(build_graph(*made(encoders["siglip"]), {}, graph_input), precision, keep_fp32).SerializeToString()
        for keep_fp32 in (names, set(names))
    )
    assert first == second


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_overflow_becomes_an_island(family: str, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    scale_hidden_layer(classifier, family)
    keep_fp32 = overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    fc1, activation, fc2 = (f"{LAYER[family]}.mlp.{part}" for part in ("fc1", "activation_fn", "fc2/MatMul"))
    assert list(keep_fp32) == [f"{fc1}/MatMul", fc1, activation]
    converted = to_half(build_graph(classifier, preprocess, {}, "pixel_values"), "fp16", keep_fp32)
    onnx.checker.check_model(converted, full_check=True)
    known = types(converted)
    assert {known[name] for name in (f"{fc1}/MatMul", fc1, activation, fc2)} == {TensorProto.FLOAT}
    assert cast_names(converted)[1:3] == [f"{LAYER[family]}.layer_norm2/single", f"{fc2}/half"]
    got = Session(converted.SerializeToString()).run({"pixel_values": pixels().numpy()})["logits"]
    difference = np.abs(got - logits(classifier, pixels())).max()
    assert 0 < difference <= FLOOR_MULTIPLE * floor(classifier, "fp16", keep_fp32)
    assert not np.isfinite(logits(classifier.half(), pixels().half())).any()


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("clip", "encoder.model.vision_model.encoder.layers.2.self_attn"),  # for the class token alone
        ("siglip", "encoder.model.encoder.layers.2.self_attn"),
        ("siglip", "encoder.model.head.attention"),
    ],
)
def test_an_attention_island_takes_its_keys_and_values_with_it(
    family: str, attention: str, encoders: dict[str, Path]
) -> None:
    classifier, preprocess = made(encoders[family])
    scale_values(classifier, attention)
    keep_fp32 = overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    assert f"{attention}.out_proj/input" in keep_fp32
    inner = tuple(f"{attention}{part}/" for part in ("", ".kv", ".out_proj"))
    assert all(name.startswith(inner) for name in keep_fp32)
    converted = to_half(build_graph(classifier, preprocess, {}, "pixel_values"), "fp16", keep_fp32)
    known = types(converted)
    inside = {name for name in known if name.startswith((f"{attention}/", f"{attention}.kv/"))}
    inside.add(f"{attention}.out_proj/MatMul")
    values = {name for name in inside if name.endswith(("/MatMul", "/Add", "/Split:0", "/Split:1"))}
    assert {known[name] for name in values | set(keep_fp32)} == {TensorProto.FLOAT}
    outside = {name for name, node in producers(converted).items() if name.startswith("encoder.")} - inside
    single = {name for name in outside if known.get(name) == TensorProto.FLOAT and not name.endswith("/single")}
    queries = {f"{attention}.q_proj", f"{attention}.q_proj/MatMul", "encoder.model.head/Expand"}
    assert single <= {*keep_fp32, *queries}
    got = Session(converted.SerializeToString()).run({"pixel_values": pixels().numpy()})["logits"]
    difference = np.abs(got - logits(classifier, pixels())).max()
    assert difference <= FLOOR_MULTIPLE * floor(classifier, "fp16", keep_fp32)
    assert not np.isfinite(logits(classifier.half(), pixels().half())).any()


@pytest.mark.parametrize(
    ("family", "island", "kept"),
    [
        ("siglip", "encoder.model.head", "encoder.model.head/Add"),
        (
            "clip",
            "encoder.model.vision_model.embeddings.patch_embedding",
            "encoder.model.vision_model.embeddings/Pad",
        ),
    ],
)
def test_values_that_only_move_stay_in_the_island(
    family: str, island: str, kept: str, encoders: dict[str, Path]
) -> None:
    model = build_graph(*made(encoders[family]), {}, "pixel_values")
    assert types(to_half(model, "fp16"))[kept] == TensorProto.FLOAT16
    assert types(to_half(model, "fp16", [island]))[kept] == TensorProto.FLOAT


def test_a_weight_that_fp16_cannot_hold_keeps_its_node_in_fp32(encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders["clip"])
    norm = f"{LAYER['clip']}.layer_norm1"
    classifier.get_submodule(norm).weight.data[3] = -70_000.0  # type: ignore[index, union-attr, operator]
    model = build_graph(classifier, preprocess, {}, "pixel_values")
    assert types(to_half(model, "fp16"))[norm] == TensorProto.FLOAT
    assert types(to_half(model, "bf16"))[norm] == TensorProto.BFLOAT16


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_of_both_kinds_is_stored_twice_and_a_tensor_is_cast_once(precision: HalfPrecision) -> None:
    nodes = [
        helper.make_node("Mul", ["pixel_values", "weight"], ["a"], name="a"),
        helper.make_node("Mul", ["a", "weight"], ["b"], name="b"),
        helper.make_node("Mul", ["a", "b"], ["c"], name="c"),
        helper.make_node("Add", ["a", "weight"], ["d"], name="d"),
        helper.make_node("Add", ["d", "c"], ["logits"], name="logits"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("pixel_values", "logits")]
    weight = numpy_helper.from_array(np.array([1.1, 2.3], np.float32), "weight")
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    converted = to_half(model, precision, ["b"])
    known = types(converted)
    assert {name: known[name] for name in ("weight", "weight/half", "a", "b", "c", "d")} == {
        "weight": TensorProto.FLOAT,
        "weight/half": ELEMENT_TYPES[precision],
        "a": ELEMENT_TYPES[precision],
        "b": TensorProto.FLOAT,
        "c": TensorProto.FLOAT,
        "d": ELEMENT_TYPES[precision],
    }
    assert cast_names(converted) == ["pixel_values/half", "a/single", "d/single"]
