"""Sizes and costs of an encoder, from the description of its tower alone; values are never read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import nn

from toolkit.models.encoder import Encoder
from toolkit.models.families.tower import Attention, AttentionPooling, Mlp, Projection, Tower


@dataclass(frozen=True)
class TowerFacts:
    """What a tower consists of; ``None`` where no family describes the encoder."""

    parameters: int
    layers: int | None
    width: int | None
    heads: int | None
    mlp: int | None
    """Width inside the MLP of a layer."""
    patch: int | None
    """Side in pixels."""
    tokens: int | None
    """Of one image: its patches, with class and register tokens."""
    embedding: str
    embedding_size: int
    gflops: float | None
    """Of one image, in 1e9: a multiply-accumulate counts as 2; norms, activations and softmax are left out."""


def facts_of(encoder: Encoder, height: int, width: int | None = None) -> TowerFacts:
    """Count what an encoder holds and computes.

    Args:
        encoder: may lie on the meta device.
        height: of the images that it takes, in pixels.
        width: of the same; they are square, if left out.
    """
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    tower = encoder.tower
    if tower is None:
        words = "its pooled output, or the mean of its last layer"
        return TowerFacts(parameters, None, None, None, None, None, None, words, encoder.embedding_size, None)
    blocks = tower.blocks
    return TowerFacts(
        parameters=parameters,
        layers=len(blocks),
        width=tower.patch_weight.shape[0],
        heads=blocks[0].attention.heads,
        mlp=blocks[0].mlp.up.weight.shape[0],
        patch=tower.patch_side,
        tokens=tower.prefix + _patches(tower, height, width),
        embedding=embedding_in_words(tower),
        embedding_size=encoder.embedding_size,
        gflops=2 * multiply_accumulates(tower, height, width) / 1e9,
    )


def embedding_in_words(tower: Tower) -> str:
    """How the embedding comes from the tokens of the last layer."""
    if isinstance(tower.pooling, AttentionPooling):
        return "normed tokens through attention pooling"
    parts = [*["class token"] * tower.pooling.class_token, *["mean of the patches"] * tower.pooling.patches]
    words = " and ".join(parts) + (", normed" if tower.post_norm is not None else "")
    return words + (", projected" if tower.projection is not None else "")


def multiply_accumulates(tower: Tower, height: int, width: int | None = None) -> int:
    """Of one image, every layer for all tokens; the graph computes less of the last where one token is read."""
    patches = _patches(tower, height, width)
    tokens = tower.prefix + patches
    total = patches * prod(tower.patch_weight.shape)
    for block in tower.blocks:
        total += _attention(block.attention, tokens, tokens) + tokens * _mlp(block.mlp)
    if isinstance(tower.pooling, AttentionPooling):
        total += _attention(tower.pooling.attention, 1, tokens) + _mlp(tower.pooling.mlp)
    return total + (_weights([tower.projection]) if tower.projection is not None else 0)


def _patches(tower: Tower, height: int, width: int | None) -> int:
    return (height // tower.patch_side) * ((width or height) // tower.patch_side)


def _attention(attention: Attention, queries: int, keys: int) -> int:
    """Projections of queries and keys, then scores and weighted values."""
    projected = queries * _weights([attention.query, attention.output]) + keys * _weights(
        [attention.key, attention.value]
    )
    return projected + queries * keys * (attention.query.weight.shape[0] + attention.value.weight.shape[0])


def _mlp(mlp: Mlp) -> int:
    return _weights([mlp.up, mlp.down, *([mlp.gate] if mlp.gate else [])])


def _weights(projections: Iterable[Projection | nn.Linear]) -> int:
    return sum(projection.weight.numel() for projection in projections)
