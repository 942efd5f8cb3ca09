"""The measurement of what comes near fp16's largest number."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from half_cases import LAYER, made, pixels, scale_hidden_layer, scale_scores, types
from onnx import TensorProto

from export.graph.classifier_graph import build_graph
from export.graph.half import HALF_MAX, MOVING, in_head, network_graph, to_half
from export.graph.module_outputs import module_outputs
from export.graph.subgraph import producers
from export.precision.overflow import overflowing
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_sound_classifier_has_none(family: str, encoders: dict[str, Path]) -> None:
    assert overflowing(made(encoders[family])[0], [{"pixel_values": pixels().numpy()}]) == {}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_every_tensor_of_the_encoder_is_measured(family: str, encoders: dict[str, Path]) -> None:
    """But those that hold another's values, and what is measured for the attention operator that it feeds."""
    classifier, _ = made(encoders[family])
    measured = overflowing(classifier, [{"pixel_values": pixels().numpy()}], limit=0)
    by_tensor = producers(network_graph(classifier))
    attention = (".kv/MatMul", ".kv/Add", "head/Shape", "head/Concat")
    left = {name for name, node in by_tensor.items() if name not in measured and not in_head(name)}
    assert {name for name in left if by_tensor[name].op_type not in MOVING and not name.endswith(attention)} <= {
        "encoder.model.head/Add"
    }
    assert list(measured) == [name for name in by_tensor if name in measured]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_largest_of_all_batches_counts(family: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders[family])
    scale_hidden_layer(classifier, family)
    first, second = ({"pixel_values": pixels(seed).numpy()} for seed in (1, 2))
    both = overflowing(classifier, [first, second])
    parts = [overflowing(classifier, [part]) for part in (first, second)]
    assert both == {name: max(part.get(name, 0.0) for part in parts) for name in both}
    activation = f"{LAYER[family]}.mlp.activation_fn"
    largest = module_outputs(classifier, torch.cat([pixels(1), pixels(2)]))[activation].abs().max()
    np.testing.assert_allclose(both[activation], float(largest), rtol=1e-6)
    assert both[activation] > HALF_MAX


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_scores_count_for_what_attention_gives(family: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders[family])
    scale_scores(classifier, family)
    found = overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    assert list(found) == [f"{LAYER[family]}.self_attn.out_proj/input"]
    tensors = module_outputs(classifier, pixels())
    query, key = (tensors[f"{LAYER[family]}.self_attn.{part}_proj"] for part in "qk")
    assert max(float(query.max()), float(key.max())) < HALF_MAX / 2
    scores = torch.einsum("bqhd,bkhd->bhqk", query.unflatten(-1, (2, 16)), key.unflatten(-1, (2, 16))) / 4
    np.testing.assert_allclose(next(iter(found.values())), float(scores.abs().max()), rtol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_in_fp32_is_named(value: float, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders["clip"])
    norm = f"{LAYER['clip']}.layer_norm1"
    classifier.get_submodule(norm).bias.data[3] = value  # type: ignore[index, union-attr, operator]
    with pytest.raises(ToolkitError, match="no numbers") as caught:
        overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    assert caught.value.where == norm


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
def test_what_attention_hides_is_no_number_either(part: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders["siglip"])
    attention = f"{LAYER['siglip']}.self_attn"
    classifier.get_submodule(f"{attention}.{part}").bias.data[3] = float("nan")  # type: ignore[index, union-attr, operator]
    with pytest.raises(ToolkitError, match="no numbers") as caught:
        overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    assert caught.value.where == f"{attention}.out_proj/input"


def test_no_images_are_refused(encoders: dict[str, Path]) -> None:
    with pytest.raises(ToolkitError, match="no calibration images"):
        overflowing(made(encoders["clip"])[0], [])


@torch.no_grad()
def test_a_residual_sum_whose_squares_overflow_is_found(encoders: dict[str, Path]) -> None:
    """Every value fits fp16, their mean square does not: a bias of 300 moves a layer's whole sum."""
    classifier, preprocess = made(encoders["clip"])
    layer = LAYER["clip"]
    classifier.get_submodule(f"{layer}.mlp.fc2").bias += 300.0  # type: ignore[operator]
    found = overflowing(classifier, [{"pixel_values": pixels().numpy()}])
    assert layer in found
    assert max(found.values()) < HALF_MAX / 2
    model = build_graph(classifier, preprocess, {}, "pixel_values")
    kept = types(to_half(model, "fp16", found))
    norms = [node for node in model.graph.node if node.op_type == "SkipLayerNormalization" and layer in node.output]
    assert [kept[norm.output[0]] for norm in norms] == [TensorProto.FLOAT]
    for name, mean_square in _mean_squares(classifier).items():
        assert (name in found) == (mean_square > HALF_MAX / 2), name


def _mean_squares(classifier: Classifier) -> dict[str, float]:
    """Of what each layer gives, the largest mean square of a token."""
    outputs = module_outputs(classifier, pixels())
    layers = [name for name in outputs if name.rpartition(".")[2].isdigit()]
    return {name: float(outputs[name].double().square().mean(-1).max()) for name in layers[:-1]}


def test_the_binary_sums_squares_in_fp32() -> None:
    """The kernel's name tells its arguments: the epsilon of fp16's is a float since the sums are, in every release that
    pyproject.toml admits."""
    files = [*(Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime_providers_cuda.so")]
    if not files:
        pytest.skip("this build of ONNX Runtime has no CUDA provider")
    with files[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        kernels = set(re.findall(rb"24SkipLayerNormKernelSmallI6__half\w+", content))
    assert kernels
    assert all(name.endswith(b"fii") for name in kernels)
