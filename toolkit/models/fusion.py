"""One vector of an image and a text."""

# B batch, T tokens, D width of a token, P width of the image's embedding, Q of the text's

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.models.families.tower import Attention, Projection
from toolkit.recipe.model import FusionConfig

HEAD_WIDTH = 64
"""Of cross-attention, as in CLIP's towers; one head where the text's embedding is narrower."""


class CrossAttention(nn.Module):
    """A pre-norm transformer block in which a text asks the tokens of an image."""

    def __init__(self, text_size: int, token_size: int) -> None:
        super().__init__()
        self.heads = max(1, text_size // HEAD_WIDTH)
        self.norm1 = nn.LayerNorm(text_size)
        self.query, self.output = nn.Linear(text_size, text_size), nn.Linear(text_size, text_size)
        self.key, self.value = nn.Linear(token_size, text_size), nn.Linear(token_size, text_size)
        self.norm2 = nn.LayerNorm(text_size)
        self.up, self.down = nn.Linear(text_size, 4 * text_size), nn.Linear(4 * text_size, text_size)
        self.activation = nn.GELU()

    @property
    def attention(self) -> Attention:
        """What the block's attention consists of."""
        query, key, value, output = (Projection(each) for each in (self.query, self.key, self.value, self.output))
        return Attention(self, query, key, value, output, self.heads, (self.query.out_features // self.heads) ** -0.5)

    def forward(self, text: Tensor, tokens_BTD: Tensor) -> Tensor:
        """Text [B, Q] and an image's tokens [B, T, D] -> [B, Q]."""
        text = text[:, None]
        query, key, value = (
            projection(of).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, of in ((self.query, self.norm1(text)), (self.key, tokens_BTD), (self.value, tokens_BTD))
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        text = text + self.output(mixed.transpose(1, 2).flatten(2))
        return (text + self.down(self.activation(self.up(self.norm2(text)))))[:, 0]


class Fusion(nn.Module):
    """Embeddings at length ``sqrt(width)``, so that their numbers are about one, and then together.

    ``concat`` puts them side by side; ``product`` multiplies them number by number, whose sum is their cosine;
    ``gated`` weighs every number of one against that of the other by a gate that both decide on (Arevalo et al.,
    "Gated Multimodal Units for Information Fusion", 2017); with ``cross-attention`` the text's embedding asks the
    image's tokens.

    Where modalities are dropped in training, each has a learned vector that stands for one that is missing.

    Args:
        config: the recipe's section.
        image_size: width P, or D for cross-attention.
        text_size: width Q.

    Raises:
        ToolkitError: widths that differ, where numbers are to meet one by one.
    """

    def __init__(self, config: FusionConfig, image_size: int, text_size: int) -> None:
        super().__init__()
        self.config, self.sizes = config, (image_size, text_size)
        if config.type in ("product", "gated") and image_size != text_size:
            what = f"{config.type} needs embeddings of one width, and images have {image_size}, texts {text_size}"
            fix = "set model.embedding=projected, which both share, or model.fusion.type=concat"
            raise ToolkitError(what, where="model.fusion.type", fix=fix)
        self.size = image_size + text_size if config.type == "concat" else text_size
        """Width of what is given."""
        self.gate = nn.Linear(image_size + text_size, image_size) if config.type == "gated" else None
        self.block = CrossAttention(text_size, image_size) if self.takes_tokens else None
        self.missing_image = nn.Parameter(torch.zeros(image_size)) if config.modality_dropout else None
        self.missing_text = nn.Parameter(torch.zeros(text_size)) if config.modality_dropout else None

    @property
    def takes_tokens(self) -> bool:
        """Whether it reads an image's tokens in place of its embedding."""
        return self.config.type == "cross-attention"

    def forward(self, image: Tensor, text: Tensor, there: Tensor | None = None) -> Tensor:
        """Fuse images and texts to [B, size].

        Args:
            image: embeddings [B, P], or tokens [B, T, D].
            text: embeddings [B, Q].
            there: bool [B, 2], whether image and text are there; all are if None.
        """
        image = image if self.block else _at_own_length(image)
        text = _at_own_length(text)
        if self.missing_image is not None:
            assert self.missing_text is not None
            there = self._there(image, there)
            image = torch.where(there[:, :1].view(-1, *[1] * (image.ndim - 1)), image, self.missing_image)
            text = torch.where(there[:, 1:], text, self.missing_text)
        if self.block is not None:
            return self.block(text, image)
        if self.config.type == "product":
            return image * text
        both = torch.cat([image, text], dim=-1)
        if self.gate is None:
            return both
        gate = torch.sigmoid(self.gate(both))
        return gate * image + (1 - gate) * text

    def _there(self, image: Tensor, there: Tensor | None) -> Tensor:
        """What is there and, in training, not dropped: of the same sample, at most one modality is."""
        if there is None:
            there = torch.ones(len(image), 2, dtype=torch.bool, device=image.device)
        if not self.training:
            return there
        drawn, half = torch.rand(len(image), 1, device=image.device), self.config.modality_dropout / 2
        dropped = torch.cat([drawn < half, (drawn >= half) & (drawn < 2 * half)], dim=1)
        kept = there & ~dropped
        return torch.where(kept.any(dim=1, keepdim=True), kept, there)


def _at_own_length(embedding: Tensor) -> Tensor:
    """Embeddings [B, P] at length ``sqrt(P)``."""
    return nn.functional.normalize(embedding, dim=-1) * math.sqrt(embedding.shape[-1])
