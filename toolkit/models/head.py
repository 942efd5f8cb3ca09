"""Classification heads: embedding [B, P] -> logits [B, classes]."""

# B batch, C classes, P width of the embedding

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.recipe.model import HeadConfig

SCALE = 1 / 0.07
"""Of cosines, where no text encoder says another: CLIP's own before its training."""


class CosineHead(nn.Module):
    """Cosine of the embedding and a vector a class, times a scale, plus a bias that all classes share.

    With the text embeddings of the classes for weights it gives what CLIP and SigLIP call ``logits_per_image``.
    """

    bias: Tensor
    """What is added to all logits []; SigLIP's ``logit_bias``. It changes no softmax and isn't learned."""

    def __init__(self, embedding_size: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, embedding_size) / math.sqrt(embedding_size))
        """A vector of any length for each class [C, P]."""
        self.logit_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        """Natural logarithm of the scale []."""
        self.register_buffer("bias", torch.zeros(()))

    def matrix(self) -> Tensor:
        """What unit-length embeddings are multiplied with: scaled vectors [C, P]."""
        return self.logit_scale.exp() * nn.functional.normalize(self.weight, dim=-1)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, P] -> logits [B, C]."""
        return nn.functional.linear(nn.functional.normalize(embedding, dim=-1), self.matrix()) + self.bias


def build_head(config: HeadConfig, embedding_size: int, classes: int) -> nn.Module:
    """A linear layer, one hidden layer with GELU and dropout, or cosines."""
    if config.type == "cosine":
        return CosineHead(embedding_size, classes)
    if config.type == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(embedding_size, classes))
    return nn.Sequential(
        nn.Linear(embedding_size, config.hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, classes),
    )
