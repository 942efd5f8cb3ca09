"""An encoder is an ordered list of named groups.

The list decides what is frozen, the learning rate of each group, and where activations may be
cut: ``embeddings``, ``layers.0`` ... ``layers.N-1``, ``post_norm``, ``projection``; an encoder
whose embedding is what the post norm pools has no ``projection``. A family (CLIP, SigLIP) is one
file that maps a transformers model to it.
"""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from toolkit.recipe.schema import Embedding


@dataclass(frozen=True)
class Group:
    """One stage of an encoder: its parameters, and what it computes from the stage before it.

    The first group takes ``pixel_values`` [B, 3, height, width], the layers tokens [B, T, D],
    and the last gives the embedding [B, P].
    """

    name: str
    modules: tuple[nn.Module, ...]
    run: Callable[[Tensor], Tensor]

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the group."""
        for module in self.modules:
            yield from module.parameters()


class Family(Protocol):
    """What a family's file provides: the transformers classes and the mapping to groups."""

    name: str
    model_types: frozenset[str]
    """``model_type`` of the configurations that belong to the family."""
    text_model_types: frozenset[str]
    """``model_type`` of the text towers beside them, which hold no image encoder."""
    processor_class: Any
    tower: str
    """Module that a whole model keeps its vision tower in; a checkpoint of the tower alone may leave it out."""
    projection: str
    """Module that makes the embedding of what is pooled behind the post norm, and that a checkpoint may lack."""
    mark: str
    """Tensor of the tower, without ``tower``, that no other family has."""
    example: str
    """A hub identifier of the family."""

    def model_class(self, embedding: Embedding) -> Any:
        """The transformers class that gives the embedding."""

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part of a configuration, for a model that gives the embedding."""

    def groups(self, model: Any) -> list[Group]:
        """The ordered groups of a vision model."""

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass, the reference of every check."""

    def embedding_size(self, model: Any) -> int:
        """P."""


class Encoder(nn.Module):
    """A vision model of some family, run group by group."""

    def __init__(self, family: Family, model: PreTrainedModel, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.family, self.model = family, model
        self.notes = notes
        """What a user should know of how it was loaded."""
        self.recompute_layers = False
        """Gradient checkpointing: layers keep their inputs alone and compute the rest again in the backward pass."""

    @property
    def groups(self) -> list[Group]:
        """The ordered groups; made on every call, so that a copied encoder never runs the original's modules."""
        return self.family.groups(self.model)

    @property
    def group_names(self) -> list[str]:
        """Names in the order of computation."""
        return [group.name for group in self.groups]

    @property
    def embedding(self) -> Embedding:
        """What the last group gives."""
        return "projected" if self.group_names[-1] == "projection" else "pooled"

    @property
    def embedding_size(self) -> int:
        """Width P of the embedding."""
        return self.family.embedding_size(self.model)

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the groups ``start`` to ``stop``; all of them turn ``pixel_values`` into the embedding [B, P]."""
        hidden = inputs
        for group in self.groups[start:stop]:
            if self.recompute_layers and torch.is_grad_enabled() and group.name.startswith("layers."):
                hidden = checkpoint(group.run, hidden, use_reentrant=False)
            else:
                hidden = group.run(hidden)
        return hidden
