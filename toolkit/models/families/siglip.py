"""SigLIP: all tokens -> post norm -> attention pooling, or their mean; there is no class token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, SiglipImageProcessorPil, SiglipTextModel, SiglipVisionConfig

from toolkit.models.families.clip import clip_block
from toolkit.models.families.family import Family
from toolkit.models.families.tower import (
    Attention,
    AttentionPooling,
    Mlp,
    Projection,
    TextPooling,
    TextTower,
    TokenPooling,
    Tower,
)
from toolkit.recipe.model import Embedding


class Siglip(Family):
    """Google's SigLIP; the attention-pooling head is the group ``projection``.

    Without it the tokens behind the post norm are averaged, as ``SiglipForImageClassification`` does.
    """

    name = "siglip"
    model_types = frozenset({"siglip", "siglip_vision_model"})
    text_model_types = frozenset({"siglip_text_model"})
    text_model_class: Any = SiglipTextModel
    pads_texts = True
    processor_class = SiglipImageProcessorPil
    usual_processor: Mapping[str, Any] = {"resize": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    tower_name = "vision_model"
    projection_name = "head"
    classifiers: Mapping[str, Embedding] = {"SiglipForImageClassification": "pooled"}
    zero_shot_task = "sigmoid-scores"
    mark = "head.probe"
    example = "google/siglip-base-patch16-224"

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part, with or without the attention pooling."""
        vision: Any = config if isinstance(config, SiglipVisionConfig) else config.vision_config
        vision.vision_use_head = getattr(vision, "vision_use_head", True) and embedding == "projected"
        return vision

    def tower(self, model: Any) -> Tower:
        """Patches alone, and a norm behind the layers."""
        embeddings = model.embeddings
        return Tower(
            module=model,
            embeddings=embeddings,
            patches=embeddings.patch_embedding,
            prefix=0,
            constants=lambda grid: embeddings.position_embedding.weight.detach(),
            pre_norm=None,
            layers=model.encoder.layers,
            block=clip_block,
            post_norm=model.post_layernorm,
            pooling=_pooling(model.head) if model.use_head else TokenPooling(class_token=False, patches=True),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, D] by transformers' own forward pass."""
        output = model(pixel_values=pixel_values)
        return output.pooler_output if model.use_head else output.last_hidden_state.mean(dim=1)

    def embed_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """All tokens [B, T, D] by transformers' own forward pass."""
        return model(**self.forward_arguments(model, pixel_values)).last_hidden_state

    def text_tower(self, model: Any) -> TextTower:
        """All tokens see each other, padding too; the last one becomes the embedding."""
        return TextTower(
            module=model,
            tokens=model.embeddings.token_embedding,
            positions=model.embeddings.position_embedding,
            causal=False,
            layers=model.encoder.layers,
            block=clip_block,
            post_norm=model.final_layer_norm,
            pooling=TextPooling("last"),
            projection=model.head,
        )

    def embed_text(self, model: Any, input_ids: Tensor) -> Tensor:
        """The embedding [B, P] of texts by transformers' own forward pass."""
        return model(input_ids=input_ids).pooler_output


def _pooling(head: Any) -> AttentionPooling:
    attention, mlp, width = head.attention, head.mlp, head.attention.embed_dim
    query, key, value = (Projection(attention, slice(part * width, (part + 1) * width)) for part in range(3))
    return AttentionPooling(
        module=head,
        probe=head.probe,
        attention=Attention(
            module=attention,
            query=query,
            key=key,
            value=value,
            output=Projection(attention.out_proj),
            heads=attention.num_heads,
            scale=(width // attention.num_heads) ** -0.5,
        ),
        norm=head.layernorm,
        mlp=Mlp(mlp, Projection(mlp.fc1), mlp.activation_fn, Projection(mlp.fc2)),
    )
