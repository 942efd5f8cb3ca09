"""Every family from training to a bundle, by the same code: described ones, and one that is traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
import torch
from transformers import (
    BitImageProcessorPil,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    EfficientNetModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import GraphInput
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.models.load import load_encoder
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify

DESCRIBED = ["dinov2", "dinov2_with_registers"]
INPUTS = get_args(GraphInput)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain ViT, which no family describes."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(
    vit: Path,
    encoders: dict[str, Path],
    make_recipe: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Finished runs; DINOv2 with registers learned on larger images than its positions are for."""
    root = tmp_path_factory.mktemp("runs")
    larger = root / "larger"
    load_encoder(str(encoders["dinov2_with_registers"]))
    for file in encoders["dinov2_with_registers"].iterdir():
        larger.mkdir(exist_ok=True)
        (larger / file.name).write_bytes(file.read_bytes())
    BitImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 48, "width": 48}).save_pretrained(larger)
    places = {"dinov2": encoders["dinov2"], "dinov2_with_registers": larger, "vit": vit}
    for name, place in places.items():
        model: dict[str, Any] = {"encoder": str(place), "unfreeze_last": 0 if name == "vit" else 1}
        finetune(make_recipe(model=model, training={"epochs": 1}), root / name)
    return {name: root / name for name in places}


@pytest.mark.parametrize("graph_input", INPUTS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("family", DESCRIBED)
def test_a_described_family_ships_in_every_precision(
    family: str, precision: str, graph_input: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    run, out = Run(runs[family]), tmp_path / "bundle"
    parity = export_bundle(run, out, ExportOptions(graph_input, precisions=[precision]))
    entry = parity["results"][precision]["cpu"]
    assert entry["passed"]
    assert entry["form"]["quantization"]["products"] or precision != "int8"
    assert verify(out)["passed"]
    report = bisect_bundle(Bundle(out), run, provider="cpu", threads=1)
    assert report["first_fault"] is None
    assert report["tensors"] >= 35


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_encoder_without_a_description_is_traced(precision: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run, out = Run(runs["vit"]), tmp_path / "bundle"
    assert [group.name for group in run.classifier.groups] == ["encoder", "head"]
    entry = export_bundle(run, out, ExportOptions(precisions=[precision]))["results"][precision]["cpu"]
    assert entry["passed"]
    assert entry["fusion_check"].startswith("not made")
    assert verify(out)["passed"]
    model = onnx.load(out / Bundle(out).graph_name(precision))
    assert model.graph.input[0].name == "image"
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_traced_encoder_has_no_integers(precision: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=f"{precision} (needs|on|can't)|can't run {precision}"):
        export_bundle(Run(runs["vit"]), tmp_path / "bundle", ExportOptions(precisions=[precision]))


def test_the_layers_of_a_traced_encoder_have_no_names(
    vit: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="the encoder has 0"):
        finetune(make_recipe(model={"encoder": str(vit), "unfreeze_last": 1}), tmp_path / "run")


def test_a_processor_that_does_more_than_it_says_is_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """EfficientNet's normalises twice."""
    encoder = tmp_path / "efficientnet"
    sizes = {"kernel_sizes": [3], "in_channels": [32], "out_channels": [16], "strides": [1], "depthwise_padding": []}
    sizes |= {"num_block_repeats": [1], "expand_ratios": [1], "hidden_dim": 16, "image_size": 32}
    EfficientNetModel(EfficientNetConfig(**sizes, width_coefficient=1.0, depth_coefficient=1.0)).save_pretrained(
        encoder
    )
    EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, include_top=True).save_pretrained(encoder)
    with pytest.raises(ToolkitError, match="does more to an image"):
        finetune(make_recipe(model={"encoder": str(encoder), "unfreeze_last": 0}), tmp_path / "run")
