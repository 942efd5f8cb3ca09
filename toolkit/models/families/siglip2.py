"""SigLIP 2 of any aspect ratio (NaFlex), at one grid of patches: images are squashed to a square.

Checkpoints of one resolution are of the family ``siglip``, whose modules they have.
"""

# B batch, N patches, D width

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, Siglip2TextModel, Siglip2VisionConfig

from toolkit.models.families.siglip import Siglip
from toolkit.models.families.tower import Tower
from toolkit.recipe.model import Embedding


class Siglip2(Siglip):
    """Google's SigLIP 2, NaFlex; every patch of the grid is one of the image."""

    name = "siglip2"
    model_types = frozenset({"siglip2", "siglip2_vision_model"})
    text_model_types = frozenset({"siglip2_text_model"})
    text_model_class = Siglip2TextModel
    processors_read = frozenset({"Siglip2ImageProcessor"})
    classifiers: Mapping[str, Embedding] = {"Siglip2ForImageClassification": "pooled"}
    example = "google/siglip2-base-patch16-naflex"
    any_size = True

    def processor_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Squares of the most patches that the encoder was trained with."""
        side = round(math.sqrt(settings.get("max_num_patches") or 256)) * (settings.get("patch_size") or 16)
        return settings | {"size": {"height": side, "width": side}}

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part, with or without the attention pooling."""
        vision: Any = config if isinstance(config, Siglip2VisionConfig) else config.vision_config
        vision.vision_use_head = getattr(vision, "vision_use_head", True) and embedding == "projected"
        return vision

    def tower(self, model: Any) -> Tower:
        """SigLIP's, with positions that are resized to the grid."""
        embeddings, patch = model.embeddings, model.config.patch_size

        def positions(grid: tuple[int, int]) -> Tensor:
            side = embeddings.position_embedding_size
            trained = embeddings.position_embedding.weight.reshape(side, side, -1)
            return embeddings.resize_positional_embeddings(trained, torch.tensor([grid]), grid[0] * grid[1])[0]

        def embed(pixel_values: Tensor) -> Tensor:
            grid = (pixel_values.shape[2] // patch, pixel_values.shape[3] // patch)
            return embeddings.patch_embedding(cut(pixel_values, patch)) + positions(grid)

        return replace(super().tower(model), constants=lambda grid: positions(grid).detach(), embed=embed)

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        output = model(**self.forward_arguments(model, pixel_values))
        return output.pooler_output if model.use_head else output.last_hidden_state.mean(dim=1)

    def forward_arguments(self, model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
        """The patches [B, N, patch * patch * 3], all of which are the image's, and rows and columns of their grid."""
        patches = cut(pixel_values, model.config.patch_size)
        grid = [side // model.config.patch_size for side in pixel_values.shape[2:]]
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int64, device=patches.device),
            "spatial_shapes": torch.tensor([grid] * len(patches), device=patches.device),
        }


def cut(pixel_values: Tensor, patch: int) -> Tensor:
    """``pixel_values`` [B, 3, height, width] -> patches [B, N, patch * patch * 3], as SigLIP 2's processor cuts."""
    grid = pixel_values.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, 3, rows, patch, columns, patch]
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
