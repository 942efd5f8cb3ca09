"""DINOv3 ViT: class token behind the post norm; positions turn the queries and keys of the patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, ViTImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from toolkit.models.families.family import Family
from toolkit.models.families.tower import Block, Mlp, Projection, TokenPooling, Tower, four_projections
from toolkit.recipe.model import Embedding


class Dinov3Vit(Family):
    """Meta's DINOv3; its own image processor needs torchvision, so its settings go to ViT's.

    That resizes whole grey levels where the other resizes fractions, which differ by half a level.
    """

    name = "dinov3_vit"
    model_types = frozenset({"dinov3_vit"})
    processor_class = ViTImageProcessorPil
    processors_read = frozenset({"DINOv3ViTImageProcessor"})
    usual_processor: Mapping[str, Any] = {
        "resize": "squash",
        "resample": "bilinear",
        "mean": tuple(IMAGENET_DEFAULT_MEAN),
        "std": tuple(IMAGENET_DEFAULT_STD),
    }
    mark = "embeddings.register_tokens"
    example = "facebook/dinov3-vits16-pretrain-lvd1689m"
    unread = ("embeddings.mask_token",)
    any_size = True
    square_only = True

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The configuration without random shifts of the positions in training: a layer is a function of its input."""
        vision: Any = config
        vision.pos_embed_shift = vision.pos_embed_jitter = vision.pos_embed_rescale = None
        return vision

    def tower(self, model: Any) -> Tower:
        """Class token, registers and patches; nothing is added to the latter."""
        embeddings, patch = model.embeddings, model.config.patch_size

        def constants(grid: tuple[int, int]) -> Tensor:
            patches = embeddings.cls_token.new_zeros(grid[0] * grid[1], model.config.hidden_size)
            return torch.cat([embeddings.cls_token.detach()[0], embeddings.register_tokens.detach()[0], patches])

        def rotary(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
            empty = embeddings.cls_token.new_empty(0, 3, grid[0] * patch, grid[1] * patch)  # its size alone is read
            return model.rope_embeddings(empty)

        return Tower(
            module=model,
            embeddings=embeddings,
            patches=embeddings.patch_embeddings,
            prefix=1 + model.config.num_register_tokens,
            constants=constants,
            rotary=rotary,
            pre_norm=None,
            layers=model.model.layer,
            block=_block,
            post_norm=model.norm,
            pooling=TokenPooling(),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        return model(pixel_values=pixel_values).pooler_output


def _block(layer: Any) -> Block:
    attention, mlp = layer.attention, layer.mlp
    gate = Projection(mlp.gate_proj) if hasattr(mlp, "gate_proj") else None
    return Block(
        module=layer,
        norm1=layer.norm1,
        attention=four_projections(attention, attention.num_heads, attention.dropout),
        norm2=layer.norm2,
        mlp=Mlp(mlp, Projection(mlp.up_proj), mlp.act_fn, Projection(mlp.down_proj), gate),
        attention_scale=layer.layer_scale1.lambda1,
        mlp_scale=layer.layer_scale2.lambda1,
    )
