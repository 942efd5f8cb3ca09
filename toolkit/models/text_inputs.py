"""Texts as a text tower takes them, by transformers' own tokenizer: what training reads and parity compares with."""

# N texts, T tokens

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from toolkit.models.load import quiet_transformers
from toolkit.models.modalities import AnyEncoder, text_tower_of
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.models.text_network import TextNetwork

CHUNK = 10_000
"""Texts whose tokens are counted at once."""


@dataclass(frozen=True)
class TextInputs:
    """Makes ``input_ids`` and ``attention_mask`` of texts."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    """Tokens that every text is padded or cut to."""
    marks_images: bool = False
    """Whether the classifier is told which images are there."""
    alone: bool = False
    """Whether the classifier takes no images."""

    def __call__(self, texts: Sequence[str | None]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 [N, length]; the mask of a missing text is 0 throughout.

        Where images are marked, also ``image_mask``, int64 [N], which says that all are there.
        """
        with quiet_transformers():  # that texts are cut is counted by whoever read them
            made = self.tokenizer(
                [text or "" for text in texts],
                padding="max_length",
                max_length=self.length,
                truncation=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        there = torch.tensor([[text is not None] for text in texts])
        marks = {"image_mask": torch.ones(len(texts), dtype=torch.int64)} if self.marks_images else {}
        return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"] * there} | marks

    def describe(self) -> dict[str, Any]:
        """All that the tensors depend on beside the texts: a part of the boundary cache's key."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        return {"tokenizer_sha256": hashlib.sha256(backend.encode()).hexdigest(), "text_length": self.length}


def made_up_inputs(
    images: int, size: tuple[int, int], texts: TextInputs | None, generator: torch.Generator | None = None
) -> Any:
    """What an encoder takes, of black images or of noise where there is a generator, and of any text.

    Args:
        images: how many.
        size: height and width in pixels.
        texts: make what it takes of texts, if it takes any.
        generator: of the noise.
    """
    tokens = {} if texts is None else texts(["a text"] * images)
    if texts is not None and texts.alone:
        return tokens
    shape = (images, 3, *size)
    pixel_values = torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)
    return pixel_values if texts is None else {"pixel_values": pixel_values} | tokens


def context_of(network: TextNetwork) -> int:
    """Tokens that a text may have."""
    return network.tower.context_length


def text_inputs(encoder: AnyEncoder, longest: int | None = None) -> TextInputs | None:
    """What makes inputs of an encoder's texts; None for one of images alone.

    Args:
        encoder: of a classifier.
        longest: tokens of the longest text; the context if left out. A family that reads its padding gets that, too.
    """
    tower = text_tower_of(encoder)
    if tower is None:
        return None
    context = context_of(tower)
    length = context if encoder.family.pads_texts or longest is None else min(context, longest)
    if not isinstance(encoder, MultimodalEncoder):
        return TextInputs(tower.tokenizer, length, alone=True)
    return TextInputs(tower.tokenizer, length, marks_images=encoder.fusion.missing_image is not None)


def tokens_of(network: TextNetwork, texts: Iterable[str]) -> Iterator[int]:
    """How many tokens each text has, with those that the tokenizer puts around it."""
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK)):
        with quiet_transformers():  # it warns of texts longer than the context, which is what is asked here
            yield from map(len, network.tokenizer(chunk, truncation=False)["input_ids"])
