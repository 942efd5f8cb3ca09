"""DINOv2, with and without register tokens: class token and mean of the patch tokens behind the post norm."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from packaging import version
from torch import Tensor
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
)

from toolkit.errors import ToolkitError
from toolkit.models.families.tower import Attention, Block, Mlp, Projection, TokenPooling, Tower
from toolkit.recipe.schema import Embedding

OLDEST = "5.18"
CONFIGS = {"dinov2": Dinov2Config, "dinov2_with_registers": Dinov2WithRegistersConfig}


class Dinov2:
    """Meta's DINOv2; the embedding [B, 2 D] is what ``Dinov2ForImageClassification`` puts its head on."""

    name = "dinov2"
    model_types = frozenset(CONFIGS)
    text_model_types: frozenset[str] = frozenset()
    processor_class = BitImageProcessorPil
    tower_name = projection_name = ""
    mark = "embeddings.mask_token"
    example = "facebook/dinov2-base"
    any_size = True

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The whole: there is no text tower."""
        return config

    def model_class(self, config: PretrainedConfig, embedding: Embedding) -> Any:
        """With or without registers.

        Raises:
            ToolkitError: transformers is older than the modules that are described here.
        """
        if version.parse(transformers.__version__) < version.parse(OLDEST):
            fix = f'pip install "transformers>={OLDEST}"'
            raise ToolkitError(f"DINOv2 needs transformers {OLDEST} or newer", where="model.encoder", fix=fix)
        return Dinov2WithRegistersModel if isinstance(config, Dinov2WithRegistersConfig) else Dinov2Model

    def config_class(self, model_type: str) -> Any:
        """With or without registers."""
        return CONFIGS[model_type]

    def tower(self, model: Any) -> Tower:
        """Class token, registers and patches; positions are interpolated to other images than were trained on."""
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
            layers=getattr(model.encoder, "layer", None) or model.encoder.layers,
            block=_block,
            post_norm=model.layernorm,
            pooling=TokenPooling(patches=True),
        )

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, 2 D] by transformers' own forward pass."""
        tokens, prefix = model(pixel_values=pixel_values).last_hidden_state, self.tower(model).prefix
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)

    def embedding_size(self, model: Any) -> int:
        """2 D."""
        return 2 * model.config.hidden_size


def _block(layer: Any) -> Block:
    attention, mlp = layer.attention, layer.mlp
    gated = hasattr(mlp, "gate_proj")
    up, activation, down = ("up_proj", "act_fn", "down_proj") if gated else ("fc1", "activation_fn", "fc2")
    query, key, value, output = (Projection(getattr(attention, f"{part}_proj")) for part in "qkvo")
    return Block(
        module=layer,
        norm1=layer.norm1,
        attention=Attention(attention, query, key, value, output, attention.num_attention_heads, attention.scaling),
        norm2=layer.norm2,
        mlp=Mlp(
            mlp,
            Projection(getattr(mlp, up)),
            getattr(mlp, activation),
            Projection(getattr(mlp, down)),
            Projection(mlp.gate_proj) if gated else None,
        ),
        attention_scale=layer.layer_scale1.lambda1,
        mlp_scale=layer.layer_scale2.lambda1,
    )
