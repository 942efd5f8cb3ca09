"""A text tower as an ordered list of named groups, like an image encoder's: beside an image tower, or alone."""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.models.encoder import Group, run_groups
from toolkit.models.families.family import Family
from toolkit.models.families.tower import TextPooling, TextTower, Transformer
from toolkit.recipe.model import Embedding


class TextState(TypedDict):
    """A batch of texts between two groups."""

    tokens: Tensor
    """[B, T, D]"""
    place: Tensor
    """Of the token that becomes the embedding, int64 [B]."""


class TextNetwork(nn.Module):
    """A text tower of some family, run group by group.

    Args:
        family: the encoder's.
        model: of the family's ``text_model_class``.
        tokenizer: makes its ``input_ids``.
    """

    def __init__(self, family: Family, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.family, self.model, self.tokenizer = family, model, tokenizer
        self.notes: tuple[str, ...] = ()
        """What a user should know of how it was loaded."""
        self.recompute_layers = False
        """Gradient checkpointing; see :class:`toolkit.models.encoder.Encoder`."""

    @property
    def tower(self) -> TextTower:
        """What the tower consists of; made on every call, so that a copy never runs the original's modules."""
        tower = self.family.text_tower(self.model)
        assert tower is not None  # the family has texts
        return tower

    @property
    def groups(self) -> list[Group]:
        """``embeddings`` takes ``input_ids`` [B, T], the layers a :class:`TextState`; the last gives [B, P]."""
        tower = self.tower
        assert tower.post_norm is not None  # every family's text tower has one
        groups = [Group("embeddings", (tower.tokens, tower.positions), partial(_begun, tower))]
        for place, layer in enumerate(tower.layers):
            groups.append(Group(f"layers.{place}", (layer,), partial(_layer, tower, layer)))
        groups.append(Group("post_norm", (tower.post_norm,), partial(_pooled, tower.post_norm)))
        if tower.projection is not None:
            groups.append(Group("projection", (tower.projection,), tower.projection))
        return groups

    @property
    def group_names(self) -> list[str]:
        """Names in the order of computation."""
        return [group.name for group in self.groups]

    @property
    def towers(self) -> list[Transformer]:
        """Every tower that is described: the one."""
        return [self.tower]

    @property
    def embedding(self) -> Embedding:
        """What the last group gives: what texts share with images."""
        return "projected"

    @property
    def embedding_size(self) -> int:
        """Width P of the embedding."""
        tower = self.tower
        assert tower.post_norm is not None
        return tower.projection.out_features if tower.projection is not None else int(tower.post_norm.weight.shape[0])

    def forward(self, inputs: Any, start: int = 0, stop: int | None = None) -> Any:
        """Run the groups ``start`` to ``stop``; all of them turn a dictionary with ``input_ids`` [B, T] into [B, P]."""
        hidden = inputs["input_ids"] if start == 0 else inputs
        return run_groups(self.groups[start:stop], hidden, recompute_layers=self.recompute_layers)

    def reference(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        return self.family.embed_text(self.model, inputs["input_ids"])


def pooled_place(pooling: TextPooling, input_ids: Tensor) -> Tensor:
    """Place of the token that becomes the embedding: ids [B, T] -> int64 [B]."""
    if pooling.token == "last":
        return torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
    found = input_ids if pooling.end_id is None else input_ids == pooling.end_id
    return found.int().argmax(dim=-1)


def _begun(tower: TextTower, input_ids: Tensor) -> TextState:
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    tokens_BTD = tower.tokens(input_ids) + tower.positions(places)
    return {"tokens": tokens_BTD, "place": pooled_place(tower.pooling, input_ids)}


def _layer(tower: TextTower, layer: nn.Module, state: TextState) -> TextState:
    tokens_BTD = layer(state["tokens"], attention_mask=None, is_causal=tower.causal)
    return {"tokens": tokens_BTD, "place": state["place"]}


def _pooled(norm: nn.Module, state: TextState) -> Tensor:
    """Behind the norm, which is computed for what is read alone: [B, D]."""
    tokens_BTD, place = state["tokens"], state["place"]
    return norm(tokens_BTD[torch.arange(len(tokens_BTD), device=tokens_BTD.device), place])
