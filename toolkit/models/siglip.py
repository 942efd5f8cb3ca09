"""SigLIP: all tokens -> post norm -> attention pooling, or their mean; there is no class token."""

# B batch, T tokens, D width (also the embedding's)

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from toolkit.models.encoder import Group
from toolkit.recipe.schema import Embedding


class Siglip:
    """Google's SigLIP; the attention-pooling head is the group ``projection``.

    Without it the tokens behind the post norm are averaged, as ``SiglipForImageClassification`` does.
    """

    name = "siglip"
    model_types = frozenset({"siglip", "siglip_vision_model"})
    text_model_types = frozenset({"siglip_text_model"})
    processor_class = SiglipImageProcessorPil
    tower = "vision_model"
    projection = "head"
    mark = "head.probe"
    example = "google/siglip-base-patch16-224"

    def model_class(self, embedding: Embedding) -> Any:
        """One class; its configuration says whether it has the attention pooling."""
        return SiglipVisionModel

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> SiglipVisionConfig:
        """The vision tower's part, with or without the attention pooling."""
        vision = config if isinstance(config, SiglipVisionConfig) else config.vision_config
        vision.vision_use_head = getattr(vision, "vision_use_head", True) and embedding == "projected"
        return vision

    def groups(self, model: Any) -> list[Group]:
        """Map the model's modules to the ordered groups."""
        layers = [
            Group(f"layers.{index}", (layer,), partial(layer, attention_mask=None))
            for index, layer in enumerate(model.encoder.layers)
        ]
        start, norm = Group("embeddings", (model.embeddings,), model.embeddings), model.post_layernorm
        if not model.use_head:
            return [start, *layers, Group("post_norm", (norm,), lambda tokens_BTD: norm(tokens_BTD).mean(dim=1))]
        return [
            start,
            *layers,
            Group("post_norm", (norm,), norm),
            Group("projection", (model.head,), model.head),
        ]

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        output = model(pixel_values=pixel_values)
        return output.pooler_output if model.use_head else output.last_hidden_state.mean(dim=1)

    def embedding_size(self, model: Any) -> int:
        """D: SigLIP has no projection to another width."""
        return model.config.hidden_size
