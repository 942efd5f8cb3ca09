"""SigLIP: all tokens -> post norm -> attention pooling; there is no class token."""

# B batch, T tokens, D width (also the embedding's)

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from toolkit.models.encoder import Group


class Siglip:
    """Google's SigLIP; the attention-pooling head is the group ``projection``."""

    name = "siglip"
    model_types = frozenset({"siglip", "siglip_vision_model"})
    model_class = SiglipVisionModel
    processor_class = SiglipImageProcessorPil

    def vision_config(self, config: PretrainedConfig) -> SiglipVisionConfig:
        """The vision tower's part."""
        return config if isinstance(config, SiglipVisionConfig) else config.vision_config

    def groups(self, model: Any) -> list[Group]:
        """Map the model's modules to the ordered groups."""
        layers = [
            Group(f"layers.{index}", (layer,), partial(layer, attention_mask=None))
            for index, layer in enumerate(model.encoder.layers)
        ]
        return [
            Group("embeddings", (model.embeddings,), model.embeddings),
            *layers,
            Group("post_norm", (model.post_layernorm,), model.post_layernorm),
            Group("projection", (model.head,), model.head),
        ]

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        return model(pixel_values=pixel_values).pooler_output

    def embedding_size(self, config: Any) -> int:
        """D: SigLIP has no projection to another width."""
        return config.hidden_size
