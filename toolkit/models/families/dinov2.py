"""DINOv2, with and without register tokens: class token and mean of the patch tokens behind the post norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from toolkit.models.families.family import Family
from toolkit.models.families.tower import Block, Mlp, Projection, TokenPooling, Tower, four_projections
from toolkit.recipe.model import Embedding


class Dinov2(Family):
    """Meta's DINOv2; the embedding [B, 2 D] is what ``Dinov2ForImageClassification`` puts its head on."""

    name = "dinov2"
    model_types = frozenset({"dinov2", "dinov2_with_registers"})
    processor_class = BitImageProcessorPil
    usual_processor: Mapping[str, Any] = {
        "resize": "shortest_edge",
        "resample": "bicubic",
        "mean": tuple(IMAGENET_DEFAULT_MEAN),
        "std": tuple(IMAGENET_DEFAULT_STD),
    }
    mark = "embeddings.mask_token"
    example = "facebook/dinov2-base"
    unread = ("embeddings.mask_token",)
    classifiers: Mapping[str, Embedding] = {
        "Dinov2ForImageClassification": "pooled",
        "Dinov2WithRegistersForImageClassification": "pooled",
    }
    any_size = True
    oldest_transformers = "5.18"

    def tower(self, model: Any) -> Tower:
        """Class token, registers and patches, whose positions are interpolated to the image's size."""
        embeddings, registers = model.embeddings, getattr(model.config, "num_register_tokens", 0)

        def constants(grid: tuple[int, int]) -> Tensor:
            height, width = (count * model.config.patch_size for count in grid)
            tokens = embeddings.cls_token.new_empty(1, 1 + grid[0] * grid[1], model.config.hidden_size)
            rows = embeddings.interpolate_pos_encoding(tokens, height, width)[0].detach().clone()
            rows[0] += embeddings.cls_token.detach()[0, 0]
            return torch.cat([rows[:1], embeddings.register_tokens.detach()[0], rows[1:]]) if registers else rows

        return Tower(
            module=model,
            embeddings=embeddings,
            patches=embeddings.patch_embeddings.projection,
            prefix=1 + registers,
            constants=constants,
            pre_norm=None,
            layers=model.encoder.layer,
            block=_block,
            post_norm=model.layernorm,
            pooling=TokenPooling(patches=True),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, 2 D] by transformers' own forward pass."""
        prefix = 1 + getattr(model.config, "num_register_tokens", 0)
        tokens = model(pixel_values=pixel_values).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)

    def embedding_size(self, model: Any) -> int:
        """Width of the class token beside the mean of the patch tokens: 2 D."""
        return 2 * model.config.hidden_size


def _block(layer: Any) -> Block:
    attention, mlp = layer.attention, layer.mlp
    if hasattr(mlp, "gate_proj"):
        described = Mlp(mlp, Projection(mlp.up_proj), mlp.act_fn, Projection(mlp.down_proj), Projection(mlp.gate_proj))
    else:
        described = Mlp(mlp, Projection(mlp.fc1), mlp.activation_fn, Projection(mlp.fc2))
    return Block(
        module=layer,
        norm1=layer.norm1,
        attention=four_projections(attention, attention.num_attention_heads),
        norm2=layer.norm2,
        mlp=described,
        attention_scale=layer.layer_scale1.lambda1,
        mlp_scale=layer.layer_scale2.lambda1,
    )
