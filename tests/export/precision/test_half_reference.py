"""PyTorch's own form of half precision."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from half_cases import LAYER, made, pixels

from export.graph.half import TORCH_TYPES, HalfPrecision, network_graph, plan
from export.graph.module_outputs import module_outputs
from export.precision.half_reference import half_reference

PRECISIONS = get_args(HalfPrecision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_what_the_graph_has_in_half_is_rounded(
    family: str, precision: HalfPrecision, encoders: dict[str, Path]
) -> None:
    classifier, _ = made(encoders[family])
    half = plan(network_graph(classifier), precision).tensors
    copy, dtype = half_reference(classifier, precision), TORCH_TYPES[precision]
    tensors = module_outputs(copy, pixels())
    names = {name for name in half & set(tensors) if not name.endswith("/MatMul")}  # matmuls are the capture's own
    names |= {f"{LAYER[family]}.self_attn.{part}_proj" for part in "qkv"}
    assert len(names) >= 20
    assert {name for name in names if not torch.equal(tensors[name], tensors[name].to(dtype).float())} == set()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.inference_mode()
def test_weights_of_the_encoder_are_rounded_and_the_original_is_not(
    family: str, precision: HalfPrecision, encoders: dict[str, Path]
) -> None:
    classifier, _ = made(encoders[family])
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    expected = classifier.reference_logits(pixels())
    copy, dtype = half_reference(classifier, precision), TORCH_TYPES[precision]
    assert not torch.equal(copy.reference_logits(pixels()), expected)
    assert torch.equal(classifier.reference_logits(pixels()), expected)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    for name, value in copy.state_dict().items():
        conv = precision == "bf16" and "patch_embedding" in name
        kept = not name.startswith("encoder.") or conv or not value.is_floating_point()
        assert torch.equal(value, before[name] if kept else before[name].to(dtype).float()), name


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_an_island_is_left_as_it_is(family: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders[family])
    fc1, fc2 = (classifier.get_submodule(f"{LAYER[family]}.mlp.{part}") for part in ("fc1", "fc2"))
    keep_fp32 = [f"{LAYER[family]}.mlp.fc1/MatMul", f"{LAYER[family]}.mlp.fc1"]
    copy = half_reference(classifier, "fp16", keep_fp32)
    kept, other = (copy.get_submodule(f"{LAYER[family]}.mlp.{part}") for part in ("fc1", "fc2"))
    assert torch.equal(kept.weight, fc1.weight)  # type: ignore[arg-type]
    assert not torch.equal(other.weight, fc2.weight)  # type: ignore[arg-type]
    given = module_outputs(copy, pixels())[keep_fp32[1]]
    assert not torch.equal(given, given.half().float())


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_an_attention_island_keeps_its_queries_keys_and_values(family: str, encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders[family])
    attention = f"{LAYER[family]}.self_attn"
    copy = half_reference(classifier, "fp16", [f"{attention}.out_proj/input"])
    tensors = module_outputs(copy, pixels())
    for part in "qkv":
        name = f"{attention}.{part}_proj"
        assert torch.equal(copy.get_submodule(name).weight, classifier.get_submodule(name).weight)  # type: ignore[arg-type]
        assert not torch.equal(tensors[name], tensors[name].half().float())


def test_an_island_of_the_pooling_attention_keeps_its_weights(encoders: dict[str, Path]) -> None:
    classifier, _ = made(encoders["siglip"])
    attention = "encoder.model.head.attention"
    kept = half_reference(classifier, "fp16", [f"{attention}.out_proj/input"]).get_submodule(attention).in_proj_weight
    assert torch.equal(kept, classifier.get_submodule(attention).in_proj_weight)  # type: ignore[arg-type]
