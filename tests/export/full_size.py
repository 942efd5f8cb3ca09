"""A run of ViT-B/32's size at 224 pixels with random weights: placement on a GPU differs from that of tiny encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe

COLORS = {"red": (180, 60, 60), "green": (60, 180, 60), "blue": (60, 60, 180)}


def write_photos(folder: Path) -> Path:
    """JPEGs of three colours with noise, 180x240."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        for label, color in COLORS.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-50, 50, (180, 240, 3))
                pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number:03d}.jpg", quality=90)
    return folder


def make_run(work: Path) -> Path:
    """Its head has learned for an epoch."""
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(work / "encoder")
    CLIPImageProcessorPil().save_pretrained(work / "encoder")
    recipe = {
        "data": {"path": str(write_photos(work / "photos"))},
        "model": {"encoder": str(work / "encoder"), "unfreeze_last": 0},
        "training": {"epochs": 1, "batch_size": 16, "boundary_cache": {"enabled": True}},
        "tracking": {"trackers": [], "plots": False},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return work / "run"
