"""An encoder is an ordered list of named groups.

The list decides what is frozen, the learning rate of each group, and where activations may be
cut: ``embeddings``, ``layers.0`` ... ``layers.N-1``, ``post_norm``, ``projection``; an encoder
whose embedding is what the post norm pools has no ``projection``, and one without a post norm ends
in ``pooling``, which has no parameters. It follows from the description of the tower that the
encoder's family gives.
"""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from toolkit.models.families.family import Family
from toolkit.models.families.tower import AttentionPooling, TokenPooling, Tower, Transformer
from toolkit.recipe.model import Embedding


@dataclass(frozen=True)
class Group:
    """One stage of an encoder: its parameters, and what it computes from the stage before it.

    The first group of an image encoder takes ``pixel_values`` [B, 3, height, width], the layers tokens [B, T, D], and
    the last gives the embedding [B, P]; those of several towers take and give what all have so far, by name.
    """

    name: str
    modules: tuple[nn.Module, ...]
    run: Callable[[Any], Any]

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the group."""
        for module in self.modules:
            yield from module.parameters()


def groups_of(tower: Tower, *, tokens: bool = False) -> list[Group]:
    """The ordered groups of a tower, which run transformers' own modules.

    Args:
        tower: described.
        tokens: end in all tokens [B, T, D] behind the post norm, in place of the embedding.
    """
    norm, pooling, projection = tower.pre_norm, tower.pooling, tower.projection
    first = (tower.embeddings,) if norm is None else (tower.embeddings, norm)
    groups = [Group("embeddings", first, partial(_tokens, tower))]
    groups += [
        Group(f"layers.{index}", (layer,), partial(_whole_layer, tower, layer))
        for index, layer in enumerate(tower.layers)
    ]
    norm = tower.post_norm
    if tokens:
        return groups if norm is None else [*groups, Group("post_norm", (norm,), norm)]
    if isinstance(pooling, AttentionPooling):
        assert norm is not None
        groups.append(Group("post_norm", (norm,), norm))
        return [*groups, Group("projection", (pooling.module,), pooling.module)]
    if pooling.first_token_only:
        last = groups[-1]
        groups[-1] = Group(last.name, last.modules, partial(first_token_layer, tower, last.modules[0]))
    if norm is None:
        groups.append(Group("pooling", (), partial(_pooled, nn.Identity(), pooling, tower.prefix)))
    else:
        groups.append(Group("post_norm", (norm,), partial(_pooled, norm, pooling, tower.prefix)))
    return groups if projection is None else [*groups, Group("projection", (projection,), projection)]


def _whole_layer(tower: Tower, layer: nn.Module, tokens_BTD: Tensor) -> Tensor:
    """A layer as transformers runs it: [B, T, D] -> [B, T, D]."""
    if tower.rotary is None:
        return layer(tokens_BTD, attention_mask=None)
    return layer(tokens_BTD, attention_mask=None, position_embeddings=tower.rotary(_grid(tower, tokens_BTD)))


def _grid(tower: Tower, tokens_BTD: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches of a square image."""
    side = math.isqrt(tokens_BTD.shape[1] - tower.prefix)
    return side, side


def _turned(keys: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Keys [B, heads, T, D / heads], those of the patches, which stand last, turned by their positions."""
    prefix, patches = keys.split((keys.shape[2] - len(cosine), len(cosine)), dim=2)
    first, second = patches.chunk(2, dim=-1)
    return torch.cat([prefix, patches * cosine + torch.cat([-second, first], dim=-1) * sine], dim=2)


def _tokens(tower: Tower, pixel_values: Tensor) -> Tensor:
    """``pixel_values`` [B, 3, height, width] -> what the first layer takes [B, T, D]."""
    tokens = (tower.embed or tower.embeddings)(pixel_values)
    return tokens if tower.pre_norm is None else tower.pre_norm(tokens)


def _pooled(norm: nn.Module, pooling: TokenPooling, prefix: int, tokens_BTD: Tensor) -> Tensor:
    """Behind the norm, which is computed for what is read alone: [B, T, D] -> [B, D], or [B, 2 D] for both parts."""
    if pooling.first_token_only:
        return norm(tokens_BTD[:, 0])
    normed = norm(tokens_BTD)
    mean = normed[:, prefix:].mean(dim=1)
    return torch.cat([normed[:, 0], mean], dim=1) if pooling.class_token else mean


def is_layer(group: str) -> bool:
    """Whether a group is a layer, such as ``layers.3`` or ``text.layers.3``."""
    return "layers" in group.split(".")


def tower_of(group: str) -> str:
    """The tower that a group belongs to: ``image`` or ``text``, or nothing where there is but one."""
    first = group.partition(".")[0]
    return first if first in ("image", "text") else ""


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP holds the module's weights in shards."""
    return isinstance(module, FSDPModule)


def first_token_layer(tower: Tower, layer: nn.Module, tokens_BTD: Tensor) -> Tensor:
    """A layer for the first token alone: [B, T, D] -> [B, 1, D].

    Nothing after the last layer reads the patch tokens of a tower that pools the class token, so they
    serve as keys and values only: a sixth of the layer's matmuls, forward and backward, for the same
    embedding.
    """
    if is_sharded(layer):  # its weights are gathered by a call of the whole layer alone
        return _whole_layer(tower, layer, tokens_BTD)
    block = tower.block(layer)
    attention = block.attention
    normed_BTD = block.norm1(tokens_BTD)
    query, key, value = (
        projection(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for projection, tokens in (
            (attention.query, normed_BTD[:, :1]),
            (attention.key, normed_BTD),
            (attention.value, normed_BTD),
        )
    )
    if tower.rotary is not None:  # the first token has no position
        key = _turned(key, *tower.rotary(_grid(tower, tokens_BTD)))
    dropout = attention.dropout if layer.training else 0.0
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attention.scale)
    attended = attention.output(mixed.transpose(1, 2).flatten(2))
    hidden = tokens_BTD[:, :1] + (attended if block.attention_scale is None else attended * block.attention_scale)
    changed = block.mlp.module(block.norm2(hidden))
    return hidden + (changed if block.mlp_scale is None else changed * block.mlp_scale)


def run_groups(groups: Sequence[Group], state: Any, *, recompute_layers: bool) -> Any:
    """Run groups one after the other.

    Args:
        groups: in the order of computation.
        state: what the first takes.
        recompute_layers: keep of layers the inputs alone, and compute the rest again in the backward pass.
    """
    for group in groups:
        if recompute_layers and torch.is_grad_enabled() and is_layer(group.name):
            state = checkpoint(group.run, state, use_reentrant=False)
        else:
            state = group.run(state)
    return state


class Encoder(nn.Module):
    """A vision model of some family, run group by group."""

    def __init__(self, family: Family, model: PreTrainedModel, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.family, self.model = family, model
        for name in family.unread:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, None)
        self.notes = notes
        """What a user should know of how it was loaded."""
        self.recompute_layers = False
        """Gradient checkpointing: layers keep their inputs alone and compute the rest again in the backward pass."""

    @property
    def groups(self) -> list[Group]:
        """The ordered groups; made on every call, so that a copied encoder never runs the original's modules."""
        if self.tower is None:
            return [Group("encoder", (self.model,), partial(self.family.embed, self.model))]
        return groups_of(self.tower)

    @property
    def tower(self) -> Tower | None:
        """What the encoder consists of; made on every call, for the same reason. None if it is traced as a whole."""
        return self.family.tower(self.model)

    @property
    def group_names(self) -> list[str]:
        """Names in the order of computation."""
        return [group.name for group in self.groups]

    @property
    def towers(self) -> list[Transformer]:
        """Every tower that is described."""
        tower = self.tower
        return [] if tower is None else [tower]

    @property
    def embedding(self) -> Embedding:
        """What the last group gives."""
        last = self.group_names[-1]
        return "projected" if last == "projection" else "patch_mean" if last == "pooling" else "pooled"

    @property
    def embedding_size(self) -> int:
        """Width P of the embedding."""
        return self.family.embedding_size(self.model)

    def reference(self, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        return self.family.embed(self.model, pixel_values)

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the groups ``start`` to ``stop``; all of them turn ``pixel_values`` into the embedding [B, P]."""
        hidden: Tensor = run_groups(self.groups[start:stop], inputs, recompute_layers=self.recompute_layers)
        return hidden
