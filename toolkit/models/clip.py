"""CLIP: class token -> post norm -> projection, where there is one.

``CLIPForImageClassification`` mean-pools the patch tokens instead, which leaves the projection
unused and zero-shot weights without a place; here the embedding is the one CLIP was trained on.
"""

# B batch, T tokens (the class token first), D width, P width of the embedding

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PretrainedConfig,
)

from toolkit.models.encoder import Group
from toolkit.recipe.schema import Embedding


class Clip:
    """OpenAI's CLIP and everything that shares its modules (OpenCLIP's ViTs, MetaCLIP)."""

    name = "clip"
    model_types = frozenset({"clip", "clip_vision_model"})
    text_model_types = frozenset({"clip_text_model"})
    processor_class = CLIPImageProcessorPil
    tower = "vision_model"
    projection = "visual_projection"
    mark = "pre_layrnorm.weight"
    example = "openai/clip-vit-base-patch32"

    def model_class(self, embedding: Embedding) -> Any:
        """The tower with its projection, or alone."""
        return CLIPVisionModelWithProjection if embedding == "projected" else CLIPVisionModel

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> CLIPVisionConfig:
        """The vision tower's part; the projection's width stands in the whole model's configuration."""
        if isinstance(config, CLIPVisionConfig):
            return config
        vision = config.vision_config
        vision.projection_dim = config.projection_dim
        return vision

    def groups(self, model: Any) -> list[Group]:
        """Map the model's modules to the ordered groups."""
        vision, projection = _tower_of(model), getattr(model, self.projection, None)

        def embed(pixel_values: Tensor) -> Tensor:
            return vision.pre_layrnorm(vision.embeddings(pixel_values))

        def pool(tokens_BTD: Tensor) -> Tensor:
            return vision.post_layernorm(tokens_BTD[:, 0])

        *before, last = vision.encoder.layers
        layers = [
            Group(f"layers.{index}", (layer,), partial(layer, attention_mask=None))
            for index, layer in enumerate(before)
        ]
        layers.append(Group(f"layers.{len(before)}", (last,), partial(class_token_layer, last)))
        projected = [] if projection is None else [Group("projection", (projection,), projection)]
        return [
            Group("embeddings", (vision.embeddings, vision.pre_layrnorm), embed),
            *layers,
            Group("post_norm", (vision.post_layernorm,), pool),
            *projected,
        ]

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        output = model(pixel_values=pixel_values)
        return output.pooler_output if isinstance(model, CLIPVisionModel) else output.image_embeds

    def embedding_size(self, model: Any) -> int:
        """P: the width that image and text share, or D without a projection."""
        config = model.config
        return config.hidden_size if isinstance(model, CLIPVisionModel) else config.projection_dim


def _tower_of(model: Any) -> CLIPVisionModel:
    return model if isinstance(model, CLIPVisionModel) else model.vision_model


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP holds the module's weights in shards."""
    return isinstance(module, FSDPModule)


def class_token_layer(layer: Any, tokens_BTD: Tensor) -> Tensor:
    """The last layer, for the class token alone: [B, 1, D].

    Nothing after it reads the patch tokens, so they serve as keys and values only: a sixth of
    the layer's products, forward and backward, for the same embedding.
    """
    if is_sharded(layer):  # its weights are gathered by a call of the whole layer alone
        return layer(tokens_BTD, attention_mask=None)
    attention = layer.self_attn
    normed_BTD = layer.layer_norm1(tokens_BTD)
    query, key, value = (
        projection(tokens).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
        for projection, tokens in (
            (attention.q_proj, normed_BTD[:, :1]),
            (attention.k_proj, normed_BTD),
            (attention.v_proj, normed_BTD),
        )
    )
    dropout = attention.dropout if layer.training else 0.0
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attention.scale)
    hidden = tokens_BTD[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.layer_norm2(hidden))
