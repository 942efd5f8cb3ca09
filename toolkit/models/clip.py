"""CLIP: class token -> post norm -> projection.

``CLIPForImageClassification`` mean-pools the patch tokens instead, which leaves the projection
unused and zero-shot weights without a place; here the embedding is the one CLIP was trained on.
"""

# B batch, T tokens (the class token first), D width, P width of the embedding

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection, PretrainedConfig

from toolkit.models.encoder import Group


class Clip:
    """OpenAI's CLIP and everything that shares its modules (OpenCLIP's ViTs, MetaCLIP)."""

    name = "clip"
    model_types = frozenset({"clip", "clip_vision_model"})
    model_class = CLIPVisionModelWithProjection
    processor_class = CLIPImageProcessorPil

    def vision_config(self, config: PretrainedConfig) -> CLIPVisionConfig:
        """The vision tower's part; the projection's width stands in the whole model's configuration."""
        if isinstance(config, CLIPVisionConfig):
            return config
        vision = config.vision_config
        vision.projection_dim = config.projection_dim
        return vision

    def groups(self, model: Any) -> list[Group]:
        """Map the model's modules to the ordered groups."""
        vision = model.vision_model

        def embed(pixel_values: Tensor) -> Tensor:
            return vision.pre_layrnorm(vision.embeddings(pixel_values))

        def pool(tokens_BTD: Tensor) -> Tensor:
            return vision.post_layernorm(tokens_BTD[:, 0])

        layers = [
            Group(f"layers.{index}", (layer,), partial(layer, attention_mask=None))
            for index, layer in enumerate(vision.encoder.layers)
        ]
        return [
            Group("embeddings", (vision.embeddings, vision.pre_layrnorm), embed),
            *layers,
            Group("post_norm", (vision.post_layernorm,), pool),
            Group("projection", (model.visual_projection,), model.visual_projection),
        ]

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        return model(pixel_values=pixel_values).image_embeds

    def embedding_size(self, config: Any) -> int:
        """P: the width that image and text share."""
        return config.projection_dim
