"""CLIP: class token -> post norm -> projection, where there is one.

``CLIPForImageClassification`` averages the patch tokens before the post norm instead, which leaves the
projection unused and zero-shot weights without a place; ``patch_mean`` is for classifiers trained so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PretrainedConfig,
)
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from toolkit.models.families.family import Family
from toolkit.models.families.tower import Attention, Block, Mlp, Projection, TextPooling, TextTower, TokenPooling, Tower
from toolkit.recipe.model import Embedding


class Clip(Family):
    """OpenAI's CLIP and everything that shares its modules (OpenCLIP's ViTs, MetaCLIP)."""

    name = "clip"
    model_types = frozenset({"clip", "clip_vision_model"})
    text_model_types = frozenset({"clip_text_model"})
    text_model_class: Any = CLIPTextModelWithProjection
    vision_config_class: Any = CLIPVisionConfig
    vision_model_class: Any = CLIPVisionModel
    projected_model_class: Any = CLIPVisionModelWithProjection
    processor_class = CLIPImageProcessorPil
    usual_processor: Mapping[str, Any] = {
        "resize": "shortest_edge",
        "resample": "bicubic",
        "mean": tuple(OPENAI_CLIP_MEAN),
        "std": tuple(OPENAI_CLIP_STD),
    }
    tower_name = "vision_model"
    projection_name = "visual_projection"
    classifiers: Mapping[str, Embedding] = {"CLIPForImageClassification": "patch_mean"}
    mark = "pre_layrnorm.weight"
    example = "openai/clip-vit-base-patch32"

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part; the projection's width stands in the whole model's configuration."""
        vision: Any = config
        if not isinstance(config, self.vision_config_class):
            vision = config.vision_config
            vision.projection_dim = config.projection_dim
        if embedding == "patch_mean":
            vision.patch_mean = True
        return vision

    def model_class(self, config: PretrainedConfig, embedding: Embedding) -> Any:
        """The tower with its projection, or alone."""
        return self.projected_model_class if embedding == "projected" else self.vision_model_class

    def tower(self, model: Any) -> Tower:
        """Class token and patches, a norm on either side of the layers."""
        vision = model if isinstance(model, self.vision_model_class) else model.vision_model
        patch_mean = _takes_patch_mean(model)

        def constants(grid: tuple[int, int]) -> Tensor:
            rows = vision.embeddings.position_embedding.weight.detach().clone()
            rows[0] += vision.embeddings.class_embedding.detach()
            return rows

        return Tower(
            module=vision,
            embeddings=vision.embeddings,
            patches=vision.embeddings.patch_embedding,
            prefix=1,
            constants=constants,
            pre_norm=vision.pre_layrnorm,
            layers=vision.encoder.layers,
            block=clip_block,
            post_norm=None if patch_mean else vision.post_layernorm,
            pooling=TokenPooling(class_token=not patch_mean, patches=patch_mean),
            projection=getattr(model, self.projection_name, None),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        output = model(pixel_values=pixel_values)
        if _takes_patch_mean(model):
            return output.last_hidden_state[:, 1:].mean(dim=1)
        return output.pooler_output if isinstance(model, self.vision_model_class) else output.image_embeds

    def embed_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """All tokens [B, T, D] by transformers' own forward pass, which norms the first one alone."""
        vision = model if isinstance(model, self.vision_model_class) else model.vision_model
        return vision.post_layernorm(model(pixel_values=pixel_values).last_hidden_state)

    def text_tower(self, model: Any) -> TextTower:
        """Every token sees those before it; the one that ends the text becomes the embedding."""
        text, end = model.text_model, model.config.eos_token_id
        return TextTower(
            module=text,
            tokens=text.embeddings.token_embedding,
            positions=text.embeddings.position_embedding,
            causal=True,
            layers=text.encoder.layers,
            block=clip_block,
            post_norm=text.final_layer_norm,
            # transformers reads 2, which stands in old configurations by mistake, as the largest id
            pooling=TextPooling("largest") if end == 2 else TextPooling("end", end),
            projection=model.text_projection,
        )

    def text_config(self, config: PretrainedConfig) -> PretrainedConfig | None:
        """The text tower's part; the projection's width stands in the whole model's configuration."""
        text = super().text_config(config)
        if text is not None:
            text.projection_dim = config.projection_dim
        return text

    def embed_text(self, model: Any, input_ids: Tensor) -> Tensor:
        """The embedding [B, P] of texts by transformers' own forward pass."""
        return model(input_ids=input_ids).text_embeds

    def embedding_size(self, model: Any) -> int:
        """P: the width that image and text share, or D without a projection."""
        config = model.config
        return config.hidden_size if isinstance(model, self.vision_model_class) else config.projection_dim


def _takes_patch_mean(model: Any) -> bool:
    return getattr(model.config, "patch_mean", False)


def clip_block(layer: Any) -> Block:
    """A layer of CLIP, which SigLIP's are too."""
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        module=layer,
        norm1=layer.layer_norm1,
        attention=Attention(
            module=attention,
            query=Projection(attention.q_proj),
            key=Projection(attention.k_proj),
            value=Projection(attention.v_proj),
            output=Projection(attention.out_proj),
            heads=attention.num_heads,
            scale=float(attention.scale),
            dropout=attention.dropout,
        ),
        norm2=layer.layer_norm2,
        mlp=Mlp(mlp, Projection(mlp.fc1), mlp.activation_fn, Projection(mlp.fc2)),
    )
