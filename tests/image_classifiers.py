"""Small classifiers of transformers' own classes, as it saves them: a random encoder, and a head with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SQUARES = SIZES | {"image_size": 32, "patch_size": 8}
TOWER = SQUARES | {"intermediate_size": 64}
GRIDS = SIZES | {"intermediate_size": 64, "num_patches": 9, "patch_size": 8}
SQUASHED = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
MADE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "clip": ("CLIP", {"vision_config": TOWER, "projection_dim": 24}, "CLIPImageProcessorPil", CROPPED),
    "metaclip_2": ("MetaClip2", {"vision_config": TOWER, "projection_dim": 24}, "CLIPImageProcessorPil", CROPPED),
    "siglip": ("Siglip", {"vision_config": TOWER}, "SiglipImageProcessorPil", SQUASHED),
    "siglip2": (
        "Siglip2",
        {"vision_config": GRIDS},
        "Siglip2ImageProcessorPil",
        {"patch_size": 8, "max_num_patches": 16},
    ),
    "vit": ("ViT", TOWER, "ViTImageProcessorPil", SQUASHED),
    "dinov2": ("Dinov2", SQUARES, "BitImageProcessorPil", CROPPED),
    "dinov2_with_registers": (
        "Dinov2WithRegisters",
        SQUARES | {"num_register_tokens": 2},
        "BitImageProcessorPil",
        CROPPED,
    ),
    "ijepa": ("IJepa", TOWER, "ViTImageProcessorPil", SQUASHED),
}
"""Of each family: the beginning of its classes' names, its configuration, and its image processor with its settings."""


def save_classifier(folder: Path, family: str, labels: Sequence[str]) -> Path:
    """Write a classifier of random weights, no norm or bias of which is without effect."""
    name, config, processor, settings = MADE[family]
    torch.manual_seed(0)
    described = getattr(transformers, f"{name}Config")(**config, id2label=dict(enumerate(labels)))
    model = getattr(transformers, f"{name}ForImageClassification")(described)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.classifier.weight.data.mul_(20)
    model.save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    return folder


@torch.inference_mode()
def fit_head(folder: Path, paths: Sequence[Path]) -> None:
    """Fit the saved head to images whose folders are named as their labels, by least squares."""
    pipeline = transformers.pipeline("image-classification", model=str(folder))
    model, heard = pipeline.model, []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    pipeline([Image.open(path) for path in paths], batch_size=32)
    hook.remove()
    embeddings = torch.cat(heard).double()
    labels = list(model.config.id2label.values())
    places = torch.tensor([labels.index(path.parent.name) for path in paths])
    targets = 8 * torch.nn.functional.one_hot(places, len(labels)).double()
    mean, spread = embeddings.mean(0), embeddings.std(0)
    scaled = (embeddings - mean) / spread
    penalty = torch.eye(scaled.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (targets - targets.mean(0))).T / spread
    model.classifier.weight.data.copy_(weights)
    model.classifier.bias.data.copy_(targets.mean(0) - weights @ mean)
    model.save_pretrained(folder)
