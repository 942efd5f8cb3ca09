"""Attention rollout: which patches of an image an embedding is made of, followed through all layers.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020), section 3.
"""

# B batch, T tokens, P patches

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.models.encoder import Encoder
from toolkit.models.families.tower import AttentionPooling, Tower


@dataclass(frozen=True)
class AttentionMap:
    """Shares of attention that reach the patches of one image."""

    shares: Tensor
    """Of each patch [rows, columns]; with what stays on class and register tokens they sum up to 1."""
    query: str
    """Whose attention it is, in words."""

    @property
    def on_patches(self) -> float:
        """What does not stay on class and register tokens."""
        return float(self.shares.sum())

    def in_words(self) -> str:
        """Whose it is, and how much of it reaches the patches."""
        rows, columns = self.shares.shape
        beside = "" if self.on_patches > 0.9995 else f", {self.on_patches:.0%} on them"
        return f"{self.query}, {columns} x {rows} patches{beside}"


def attention_map(encoder: Encoder, pixel_values: Tensor) -> AttentionMap:
    """Roll out the attention of an encoder's embedding over the patches of one image.

    It is the class token's; where the embedding is pooled by attention, that of the pooling; where it is a mean of
    patches alone, the mean of theirs.

    Args:
        encoder: of a family that is described, in eval mode.
        pixel_values: the image [1, 3, height, width].
    """
    tower = encoder.tower
    assert tower is not None  # a traced encoder has no layers that are known
    layers, pooled = attentions_of(encoder, tower, pixel_values)
    rolled = rollout(layers)
    if pooled is not None:
        row, query = pooled @ rolled, "the attention pooling's"
    elif getattr(tower.pooling, "class_token", False):
        row, query = rolled[0], "the class token's"
    else:
        row, query = rolled[tower.prefix :].mean(dim=0), "the mean of the patches'"
    grid = [side // tower.patch_side for side in pixel_values.shape[2:]]
    return AttentionMap(row[tower.prefix :].unflatten(0, grid), query)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """How much of each token behind the last layer comes from each in front of the first: rows [T, T] that sum up to 1.

    A layer's residual sum counts as attention to the token itself, as much as all the rest.

    Args:
        layers: attention weights [T, T], means over the heads, from the first layer on.
    """
    rolled = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for weights in layers:
        mixed = weights + torch.eye(len(weights), dtype=weights.dtype)
        rolled = (mixed / mixed.sum(dim=-1, keepdim=True)) @ rolled
    return rolled


@torch.inference_mode()
def attentions_of(encoder: Encoder, tower: Tower, pixel_values: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Attention weights of transformers' own forward pass, means over the heads.

    Args:
        encoder: in eval mode.
        tower: its description.
        pixel_values: one image [1, 3, height, width].

    Returns:
        Those of each layer [T, T], and of an attention pooling [T]; float64 on the CPU.
    """
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1][0].double()
        found.append((weights.mean(dim=0) if weights.dim() == 3 else weights).cpu())  # a pooling's are means already

    model, before = encoder.model, encoder.model.config._attn_implementation
    hooks = [attention.module.register_forward_hook(keep) for attention in tower.attentions]
    model.set_attn_implementation("eager")  # the others give no weights
    try:
        encoder.family.embed(model, pixel_values)
    finally:
        model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    if isinstance(tower.pooling, AttentionPooling):
        return found[:-1], found[-1][0]
    return found, None
