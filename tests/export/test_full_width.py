"""Encoders as large as users have them, with random weights: trained with the head alone, exported and proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from color_images import write_images
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from export.bundle import ExportOptions, export_bundle
from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.verify import verify

LARGE: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
LARGE |= {"num_attention_heads": 16, "projection_dim": 768}


def clip(folder: Path, side: int, **sizes: Any) -> None:
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=side)).save_pretrained(folder)
    crop: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    CLIPImageProcessorPil(**crop).save_pretrained(folder)


def siglip_2(folder: Path) -> None:
    """Of one resolution, 256, which is a SigLIP."""
    SiglipVisionModel(SiglipVisionConfig(image_size=256, patch_size=16)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 256, "width": 256}).save_pretrained(folder)


def blip(folder: Path) -> None:
    """At 384, with a small text encoder beside it."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(vision_config={"initializer_range": 0.02}, text_config=text)
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(folder)


ENCODERS: dict[str, Callable[[Path], None]] = {
    "clip-base-16": lambda folder: clip(folder, 224, patch_size=16),
    "clip-large-14-336": lambda folder: clip(folder, 336, patch_size=14, **LARGE),
    "siglip2-base-16-256": siglip_2,
    "blip-base-384": blip,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_a_full_width_encoder_is_exported_and_proven(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ENCODERS[name](tmp_path / "encoder")
    data = write_images(tmp_path / "data", {"train": 2, "val": 1, "test": 2})
    recipe = Recipe.model_validate(
        {
            "data": {"path": data},
            "model": {"encoder": str(tmp_path / "encoder"), "unfreeze_last": 0},
            "training": {"epochs": 1, "batch_size": 2},
            "tracking": {"trackers": [], "plots": False},
        }
    )
    finetune(recipe, tmp_path / "run")
    parity = export_bundle(Run(tmp_path / "run"), tmp_path / "bundle", ExportOptions())
    entry = parity["results"]["fp32"]["cpu"]
    assert entry["passed"]
    assert entry["top1_agreement"] == 1.0
    assert verify(tmp_path / "bundle")["passed"]
