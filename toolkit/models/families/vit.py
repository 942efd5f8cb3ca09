"""ViT: class token behind the post norm, which is what ``ViTForImageClassification`` puts its head on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import ViTImageProcessorPil

from toolkit.models.families.family import Family
from toolkit.models.families.tower import Block, Mlp, Projection, TokenPooling, Tower, four_projections
from toolkit.recipe.model import Embedding


class Vit(Family):
    """Google's ViT; the pooler of old checkpoints, which was trained on another task, is left out."""

    name = "vit"
    model_types = frozenset({"vit"})
    model_arguments: Mapping[str, Any] = {"add_pooling_layer": False}
    processor_class = ViTImageProcessorPil
    usual_processor: Mapping[str, Any] = {"resize": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    classifiers: Mapping[str, Embedding] = {"ViTForImageClassification": "pooled"}
    mark = "encoder.layer.0.layernorm_before.weight"
    unread = ("embeddings.mask_token",)
    example = "google/vit-base-patch16-224"

    def tower(self, model: Any) -> Tower:
        """Class token and patches, and a norm behind the layers."""
        embeddings = model.embeddings

        def constants(grid: tuple[int, int]) -> Tensor:
            rows = embeddings.position_embeddings.detach()[0].clone()
            rows[0] += embeddings.cls_token.detach()[0, 0]
            return rows

        return Tower(
            module=model,
            embeddings=embeddings,
            patches=embeddings.patch_embeddings.projection,
            prefix=1,
            constants=constants,
            pre_norm=None,
            layers=model.layers,
            block=_block,
            post_norm=model.layernorm,
            pooling=TokenPooling(),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        return model(pixel_values=pixel_values).last_hidden_state[:, 0]


def _block(layer: Any) -> Block:
    attention, mlp = layer.attention, layer.mlp
    return Block(
        module=layer,
        norm1=layer.layernorm_before,
        attention=four_projections(attention, attention.num_attention_heads, attention.attention_dropout),
        norm2=layer.layernorm_after,
        mlp=Mlp(mlp, Projection(mlp.fc1), mlp.activation_fn, Projection(mlp.fc2)),
    )
