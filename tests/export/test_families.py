"""Every family from training to a bundle, by the same code: described ones, and one that is traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    EfficientNetModel,
    IJepaConfig,
    IJepaModel,
    ViTImageProcessorPil,
)

from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.config import GraphConfig
from export.latency.measure import MinSamples
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import ModelConfig
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.session import Session
from toolkit.runtime.verify import verify

DESCRIBED = ["dinov2", "dinov2_with_registers", "vit", "blip", "dinov3_vit", "siglip2"]
GRAPHS = [*DESCRIBED, "dinov3_vit_gated", "laion"]
LARGER = ("dinov2_with_registers", "vit")
INPUTS, PRECISIONS = get_args(GraphInput), ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def ijepa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """I-JEPA, which no family describes."""
    folder = tmp_path_factory.mktemp("ijepa")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    IJepaModel(IJepaConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(
    ijepa: Path,
    encoders: dict[str, Path],
    make_recipe: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Finished runs, made when they are asked for, some on larger images than the encoder's positions are for."""
    root = tmp_path_factory.mktemp("runs")

    def made(name: str) -> Path:
        if not (root / name).exists():
            model: dict[str, Any] = {"encoder": str({**encoders, "ijepa": ijepa}[name]), "unfreeze_last": 1}
            if name == "ijepa":
                model["unfreeze_last"] = 0
            if name in LARGER:
                model["image_size"] = 48
            finetune(make_recipe(model=model, training={"epochs": 1}), root / name)
        return root / name

    return made


@pytest.mark.parametrize("graph_input", INPUTS)
@pytest.mark.parametrize("family", DESCRIBED)
def test_a_described_family_ships_in_every_precision(
    family: str, graph_input: Any, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run, out = Run(runs(family)), tmp_path / "bundle"
    results = export_bundle(run, out, ExportOptions(graph_input, precisions=PRECISIONS))["results"]
    assert all(results[precision]["cpu"]["passed"] for precision in PRECISIONS)
    assert results["int8"]["cpu"]["form"]["quantization"]["products"]
    assert verify(out)["passed"]
    for precision in PRECISIONS:
        report = bisect_bundle(Bundle(out), run, provider="cpu", threads=1, precision=precision)
        assert report["first_fault"] is None
        assert report["tensors"] >= 35
    latency = benchmark(
        Bundle(out),
        provider="cpu",
        batch_sizes=[1],
        compare=ComparisonOptions(),
        least=MinSamples(2, 0),
        measured=BenchmarkOptions(threads=1, details=False),
    )
    assert [row["precision"] for row in latency["rows"]] == list(PRECISIONS)


@pytest.mark.parametrize("config", [GraphConfig(), GraphConfig(standard_ops_only=True)], ids=["fused", "standard"])
@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("family", GRAPHS)
@torch.inference_mode()
def test_the_graph_gives_what_transformers_gives(
    family: str, side: int, config: GraphConfig, encoders: dict[str, Path]
) -> None:
    """Within what PyTorch itself differs from float64, ten times over."""
    embedding = "projected" if family in ("blip", "siglip2", "laion") else "pooled"
    wanted = ModelConfig(encoder=str(encoders[family]), embedding=embedding, image_size=side, unfreeze_last=0)
    classifier, processor = build_classifier(wanted, ["a", "b", "c"], seed=0)
    model = build_graph(classifier.eval(), preprocess_from(processor), {}, "pixel_values", config)
    session = Session(model.SerializeToString(), provider="cpu", threads=1)
    pixel_values = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = classifier.reference_logits(pixel_values)
    exact = classifier.double().reference_logits(pixel_values.double())
    floor = max(float((expected - exact).abs().max()), float(np.finfo(np.float32).eps * exact.abs().max()))
    (logits,) = session.compute(["logits"], {"pixel_values": pixel_values.numpy()})
    assert np.abs(logits - exact.numpy()).max() <= 10 * floor


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_encoder_without_a_description_is_traced(
    precision: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run, out = Run(runs("ijepa")), tmp_path / "bundle"
    assert [group.name for group in run.classifier.groups] == ["encoder", "head"]
    entry = export_bundle(run, out, ExportOptions(precisions=[precision]))["results"][precision]["cpu"]
    assert entry["passed"]
    assert entry["fusion_check"].startswith("not made")
    assert verify(out)["passed"]
    model = onnx.load(out / Bundle(out).graph_name(precision))
    assert model.graph.input[0].name == "image"
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_traced_encoder_has_no_integers(precision: str, runs: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=f"{precision} (needs|on|can't)|can't run {precision}"):
        export_bundle(Run(runs("ijepa")), tmp_path / "bundle", ExportOptions(precisions=[precision]))


def test_the_layers_of_a_traced_encoder_have_no_names(
    ijepa: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="the encoder has 0"):
        finetune(make_recipe(model={"encoder": str(ijepa), "unfreeze_last": 1}), tmp_path / "run")


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
