"""Graphs that are written from descriptions, beside transformers' own modules; and what can not be described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    EfficientNetModel,
)

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import ModelConfig
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.session import Session

GRAPHS = ["dinov2", "dinov2_with_registers", "vit", "blip", "dinov3_vit", "siglip2", "dinov3_vit_gated", "laion"]


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
