"""A transformer tower in neutral words: all that training, the graph and its precisions know of an encoder.

A family's file gives it from the modules of transformers; training runs those modules themselves, the
graph is written from the description, and parity proves that both are the same.
"""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


class PartedLinear(nn.Module):
    """Linear layers that take the same, side by side, in place of one whose rows several projections share."""

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def part(self, rows: slice) -> nn.Linear:
        """The layer that gives some of the rows."""
        return next(part for part, own in self._rows() if own == rows)

    @property
    def weight(self) -> Tensor:
        """The weights of all parts [out, in]."""
        return torch.cat([part.weight for part, _ in self._rows()])

    @property
    def bias(self) -> Tensor:
        """The biases of all parts [out]."""
        return torch.cat([part.bias for part, _ in self._rows()])

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return torch.cat([part(x) for part in self.parts], dim=-1)

    def _rows(self) -> Iterator[tuple[nn.Linear, slice]]:
        first = 0
        for part in self.parts:
            assert isinstance(part, nn.Linear)
            yield part, slice(first, first + part.out_features)
            first += part.out_features


@dataclass(frozen=True)
class Projection:
    """``x`` [..., in] times ``weight`` [out, in] transposed, plus ``bias`` [out]: a linear layer, or rows of one."""

    module: nn.Module
    """A linear layer, or ``nn.MultiheadAttention``, whose input projections share one weight."""
    rows: slice | None = None
    """Of the module's weight, where several projections share it."""

    @property
    def weight(self) -> Tensor:
        """The weight [out, in]."""
        packed = isinstance(self.module, nn.MultiheadAttention)
        whole: Tensor = self.module.in_proj_weight if packed else self.module.weight  # type: ignore[assignment]
        return whole if self.rows is None else whole[self.rows]

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], if there is one."""
        packed = isinstance(self.module, nn.MultiheadAttention)
        whole: Tensor | None = self.module.in_proj_bias if packed else self.module.bias  # type: ignore[assignment]
        return whole if self.rows is None or whole is None else whole[self.rows]

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.rows is None:
            return self.module(x)  # type: ignore[no-any-return]
        if isinstance(self.module, PartedLinear):
            return self.module.part(self.rows)(x)  # type: ignore[no-any-return]
        return nn.functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Attention:
    """Multi-head attention: softmax of scaled query-key dot products, times values, through ``output``."""

    module: nn.Module
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    heads: int
    scale: float
    dropout: float = 0.0
    """Of the attention weights, in training."""


def four_projections(module: Any, heads: int, dropout: float = 0.0) -> Attention:
    """Attention whose projections are ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``, with its own scaling."""
    query, key, value, output = (Projection(getattr(module, f"{part}_proj")) for part in "qkvo")
    return Attention(module, query, key, value, output, heads, module.scaling, dropout)


@dataclass(frozen=True)
class Mlp:
    """``down(activation(up(x)))``, or with a gate ``down(activation(gate(x)) * up(x))``."""

    module: nn.Module
    up: Projection
    activation: nn.Module
    down: Projection
    gate: Projection | None = None


@dataclass(frozen=True)
class Block:
    """A pre-norm transformer layer: two residual sums around attention and MLP, either scaled a channel."""

    module: nn.Module
    norm1: nn.LayerNorm
    attention: Attention
    norm2: nn.LayerNorm
    mlp: Mlp
    attention_scale: nn.Parameter | None = None
    """Layer scale [D] of what attention adds."""
    mlp_scale: nn.Parameter | None = None
    """Layer scale [D] of what the MLP adds."""


@dataclass(frozen=True)
class TokenPooling:
    """The embedding from tokens: the class token, the mean of the patch tokens, or both side by side."""

    class_token: bool = True
    patches: bool = False

    @property
    def first_token_only(self) -> bool:
        """Whether nothing reads what the last layer gives for other tokens than the first."""
        return self.class_token and not self.patches


@dataclass(frozen=True)
class AttentionPooling:
    """The embedding by a learned query: attention to the normed tokens, then a norm and an MLP with a residual sum."""

    module: nn.Module
    probe: nn.Parameter
    """The query [1, 1, D]."""
    attention: Attention
    norm: nn.LayerNorm
    mlp: Mlp


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """What the towers of images and of texts have alike: layers, and mostly a norm behind them."""

    module: nn.Module
    """What holds the others."""
    layers: Iterable[nn.Module]
    """Each takes and gives tokens [B, T, D]."""
    block: Callable[[nn.Module], Block]
    """Says what a layer consists of."""
    post_norm: nn.LayerNorm | None
    """None where what the layers give is pooled as it is."""
    projection: nn.Linear | None = None

    @property
    def blocks(self) -> list[Block]:
        """All layers, described."""
        return [self.block(layer) for layer in self.layers]

    @property
    def attentions(self) -> list[Attention]:
        """Every attention of the layers."""
        return [block.attention for block in self.blocks]


@dataclass(frozen=True, kw_only=True)
class Tower(Transformer):
    """A tower from ``pixel_values`` [B, 3, height, width] to the embedding [B, P].

    It is made anew for every use and holds modules alone: what costs time to say is behind a function.
    """

    embeddings: nn.Module
    """``pixel_values`` to tokens [B, T, D], before ``pre_norm``."""
    patches: nn.Conv2d | nn.Linear
    """Inside ``embeddings``; patches side by side, row by row; a linear layer takes them as rows, columns, channels."""
    prefix: int
    """Tokens in front of the patches: class and register tokens."""
    constants: Callable[[tuple[int, int]], Tensor]
    """What is added to the patches behind ``prefix`` rows of zeros [T, D]: positions, class and register tokens.

    It takes rows and columns of the grid of patches; a tower of one image size gives the same for any.
    """
    pre_norm: nn.LayerNorm | None
    pooling: TokenPooling | AttentionPooling
    embed: Callable[[Tensor], Tensor] | None = None
    """``pixel_values`` to tokens [B, T, D], where that is not what a call of ``embeddings`` does."""
    rotary: Callable[[tuple[int, int]], tuple[Tensor, Tensor]] | None = None
    """Rotary positions: cosine and sine [patches, D / heads] that turn the queries and keys of the patches.

    It takes rows and columns of the grid of patches. The prefix tokens have no positions; layers take both as
    ``position_embeddings``.
    """

    @property
    def patch_side(self) -> int:
        """Side of a patch in pixels."""
        if isinstance(self.patches, nn.Linear):
            return math.isqrt(self.patches.in_features // 3)
        return int(self.patches.kernel_size[0])

    @property
    def patch_weight(self) -> Tensor:
        """What patches are multiplied with [D, 3, side, side]."""
        if isinstance(self.patches, nn.Linear):
            side = self.patch_side
            return self.patches.weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
        return self.patches.weight

    @property
    def attentions(self) -> list[Attention]:
        """Every attention of the tower, that of the pooling last."""
        pooled = [self.pooling.attention] if isinstance(self.pooling, AttentionPooling) else []
        return [*super().attentions, *pooled]


@dataclass(frozen=True)
class TextPooling:
    """Which normed token becomes the embedding of a text."""

    token: Literal["end", "largest", "last"]
    """``end``: the first token with the id ``end_id``; ``largest``: the first with the largest id, which CLIP's
    older configurations mean; ``last``: the last of the sequence, whatever it is."""
    end_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextTower(Transformer):
    """A tower from ``input_ids`` [B, T] to the embedding [B, P]; made anew for every use, like :class:`Tower`."""

    tokens: nn.Embedding
    """An embedding [D] for every id of the vocabulary."""
    positions: nn.Embedding
    """What is added to the tokens by their place; as many as the longest text has."""
    causal: bool
    """Whether a token attends to itself and those before it alone."""
    pooling: TextPooling

    @property
    def context_length(self) -> int:
        """Tokens that a text may have."""
        return self.positions.num_embeddings


def fold_layer_scales(tower: Transformer | None) -> None:
    """Move layer scales into the projections before them, in place; the graph computes it so.

    Args:
        tower: of a copy; its layer scales are one afterwards.
    """
    for block in tower.blocks if tower else ():
        for projection, scale in ((block.attention.output, block.attention_scale), (block.mlp.down, block.mlp_scale)):
            if scale is not None:
                projection.weight.data.mul_(scale.data[:, None])
                if projection.bias is not None:
                    projection.bias.data.mul_(scale.data)
                scale.data.fill_(1)
