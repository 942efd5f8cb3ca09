"""BLIP: class token behind the post norm -> projection, where there is one.

``BlipForImageTextRetrieval`` has the projection; captioning and question answering do without. Its
text encoder compares texts with images by cosines alone: no scale of logits was trained with it, so there
is no zero-shot classifier to be had from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import BlipImageProcessorPil, BlipPreTrainedModel, BlipVisionConfig, BlipVisionModel, PretrainedConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from toolkit.models.families.family import Family
from toolkit.models.families.tower import Attention, Block, Mlp, Projection, TokenPooling, Tower
from toolkit.recipe.model import Embedding


class BlipImageEncoder(BlipPreTrainedModel):
    """The image side of ``BlipForImageTextRetrieval`` by its names; without the projection if none is configured."""

    config: BlipVisionConfig  # type: ignore[assignment]
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"

    def __init__(self, config: BlipVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = BlipVisionModel(config)
        width = _projected_width(config)
        if width:
            self.vision_proj = nn.Linear(config.hidden_size, width)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``pixel_values`` [B, 3, height, width] -> the embedding [B, P]; the tower's pooled output is normed twice."""
        pooled = self.vision_model(pixel_values=pixel_values).last_hidden_state[:, 0]
        return self.vision_proj(pooled) if _projected_width(self.config) else pooled


class Blip(Family):
    """Salesforce's BLIP, whose query, key and value are rows of one linear layer."""

    name = "blip"
    model_types = frozenset({"blip", "blip_vision_model"})
    text_model_types = frozenset({"blip_text_model"})
    processor_class = BlipImageProcessorPil
    usual_processor: Mapping[str, Any] = {
        "resize": "squash",
        "resample": "bicubic",
        "mean": tuple(OPENAI_CLIP_MEAN),
        "std": tuple(OPENAI_CLIP_STD),
    }
    tower_name = "vision_model"
    projection_name = "vision_proj"
    mark = "encoder.layers.0.self_attn.qkv.weight"
    example = "Salesforce/blip-itm-base-coco"

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> BlipVisionConfig:
        """The vision tower's part; the projection's width stands in the whole model's configuration."""
        vision: Any = config if isinstance(config, BlipVisionConfig) else config.vision_config
        vision.image_text_hidden_size = _projected_width(config) if embedding == "projected" else None
        return vision

    def model_class(self, config: PretrainedConfig, embedding: Embedding) -> Any:
        """The tower with its projection, or without."""
        return BlipImageEncoder

    def tower(self, model: Any) -> Tower:
        """Class token and patches, and a norm behind the layers."""
        vision = model.vision_model
        embeddings = vision.embeddings

        def constants(grid: tuple[int, int]) -> Tensor:
            rows = embeddings.position_embedding.detach()[0].clone()
            rows[0] += embeddings.class_embedding.detach()[0, 0]
            return rows

        return Tower(
            module=vision,
            embeddings=embeddings,
            patches=embeddings.patch_embedding,
            prefix=1,
            constants=constants,
            pre_norm=None,
            layers=vision.encoder.layers,
            block=_block,
            post_norm=vision.post_layernorm,
            pooling=TokenPooling(),
            projection=getattr(model, self.projection_name, None),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        return model(pixel_values)

    def embedding_size(self, model: Any) -> int:
        """P: the width that image and text share, or D without a projection."""
        return _projected_width(model.config) or model.config.hidden_size


def _projected_width(config: Any) -> int | None:
    return getattr(config, "image_text_hidden_size", None)


def _block(layer: Any) -> Block:
    attention, mlp, width = layer.self_attn, layer.mlp, layer.embed_dim
    query, key, value = (Projection(attention.qkv, slice(part * width, (part + 1) * width)) for part in range(3))
    return Block(
        module=layer,
        norm1=layer.layer_norm1,
        attention=Attention(
            module=attention,
            query=query,
            key=key,
            value=value,
            output=Projection(attention.projection),
            heads=attention.num_heads,
            scale=attention.scale,
            dropout=attention.dropout.p,
        ),
        norm2=layer.layer_norm2,
        mlp=Mlp(mlp, Projection(mlp.fc1), mlp.activation_fn, Projection(mlp.fc2)),
    )
