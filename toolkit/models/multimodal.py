"""Two towers as one encoder: an image and a text, group by group to one vector."""

# B batch, T tokens

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.models.encoder import Encoder, Group, groups_of, run_groups
from toolkit.models.families.family import Family
from toolkit.models.families.tower import Tower, Transformer
from toolkit.models.fusion import Fusion
from toolkit.models.text_network import TextNetwork
from toolkit.recipe.model import Embedding

State = dict[str, Any]
"""A batch between two groups: what each tower has so far under ``image`` and ``text``, and ``there``, bool [B, 2]:
whether image and text are."""


class MultimodalEncoder(nn.Module):
    """An image tower beside a text tower, and their fusion.

    Its groups are those of both, ``image.embeddings`` ... and ``text.embeddings`` ..., in one list in which both end
    together: the last layers of either stand side by side, so that one boundary cuts both. ``fusion`` is the last.

    It takes a dictionary: ``pixel_values`` [B, 3, height, width], ``input_ids`` and ``attention_mask`` int64 [B, T],
    and maybe ``image_mask`` int64 [B]. A text of which the mask leaves nothing, and an image where its mask is 0, are
    missing.
    """

    def __init__(self, image: Encoder, text: TextNetwork, fusion: Fusion) -> None:
        super().__init__()
        self.image, self.text, self.fusion = image, text, fusion
        self.recompute_layers = False
        """Gradient checkpointing; see :class:`toolkit.models.encoder.Encoder`."""

    @property
    def family(self) -> Family:
        """Of the image tower, and so of the text tower."""
        return self.image.family

    @property
    def model(self) -> PreTrainedModel:
        """The image tower's module."""
        return self.image.model

    @property
    def tower(self) -> Tower | None:
        """The image tower's description."""
        return self.image.tower

    @property
    def towers(self) -> list[Transformer]:
        """Every tower that is described."""
        return [*self.image.towers, self.text.tower]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was loaded."""
        return self.image.notes

    @property
    def embedding(self) -> Embedding:
        """What the image tower gives."""
        return self.image.embedding

    @property
    def embedding_size(self) -> int:
        """Width of what the fusion gives."""
        return self.fusion.size

    @property
    def groups(self) -> list[Group]:
        """Every group in the order of computation."""
        image = self.image.groups
        if self.fusion.takes_tokens:
            assert self.tower is not None  # checked when it was built
            image = groups_of(self.tower, tokens=True)
        parts = _named("image", image), _named("text", self.text.groups)
        return [*_ending_together(*parts), Group("fusion", (self.fusion,), self._fused)]

    @property
    def group_names(self) -> list[str]:
        """Names in the order of computation."""
        return [group.name for group in self.groups]

    def _fused(self, state: State) -> Tensor:
        return self.fusion(state["image"], state["text"], state["there"])

    def forward(self, inputs: State, start: int = 0, stop: int | None = None) -> Any:
        """Run the groups ``start`` to ``stop``; all of them turn the inputs into a vector [B, size]."""
        state = begun(inputs) if start == 0 else inputs
        return run_groups(self.groups[start:stop], state, recompute_layers=self.recompute_layers)

    def reference(self, inputs: State) -> Tensor:
        """The vector [B, size] by transformers' own forward passes of both towers."""
        family, state = self.family, begun(inputs)
        embed = family.embed_tokens if self.fusion.takes_tokens else family.embed
        image = embed(self.image.model, state["image"])
        return self.fusion(image, family.embed_text(self.text.model, state["text"]), state["there"])


def begun(inputs: State) -> State:
    """What the first groups take."""
    texts = inputs["attention_mask"].bool().any(dim=1)
    images = inputs["image_mask"].bool() if "image_mask" in inputs else torch.ones_like(texts)
    there = torch.stack([images, texts], dim=1)
    return {"image": inputs["pixel_values"], "text": inputs["input_ids"], "there": there}


def _named(modality: str, groups: Sequence[Group]) -> list[Group]:
    """Groups of a tower that change the state's part of their own."""
    return [Group(f"{modality}.{group.name}", group.modules, partial(_on, modality, group)) for group in groups]


def _on(modality: str, group: Group, state: State) -> State:
    return {**state, modality: group.run(state[modality])}


def _ending_together(*towers: Sequence[Group]) -> list[Group]:
    """The groups of all towers, each in its order, those that are equally far from their tower's end side by side."""
    longest = max(map(len, towers))
    return [tower[-left] for left in range(longest, 0, -1) for tower in towers if left <= len(tower)]
