"""Classification heads: embedding [B, P] -> logits [B, classes]."""

# B batch, C classes, P width of the embedding

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.recipe.model import HeadConfig
from toolkit.tasks.task import Head

SCORELESS = {"conditional": "ordered classes have", "number": "a number has"}
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


class TipAdapterHead(nn.Module):
    """A cosine head, plus what the nearest of some cached images say: ``alpha exp(-beta (1 - x K^T)) V``.

    Source: Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification" (2022), equation 5.
    """

    def __init__(self, cosine: CosineHead, keys: Tensor, values: Tensor, alpha: float = 1.0, beta: float = 1.0) -> None:
        """Take the head of the texts, keys [n, P] of length one, and their labels one-hot [n, C]."""
        super().__init__()
        self.cosine, self.keys = cosine, nn.Parameter(keys.clone())
        self.register_buffer("values", values)
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("beta", torch.tensor(beta))

    values: Tensor
    alpha: Tensor
    beta: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, P] -> logits [B, C]."""
        unit = nn.functional.normalize(embedding, dim=-1)
        near = torch.exp(self.beta * (nn.functional.linear(unit, self.keys) - 1))
        return self.cosine(embedding) + near @ (self.alpha * self.values)


class OrdinalHead(nn.Module):
    """Log-probabilities of ordered classes, from the log-odds of passing each but the last where it is reached.

    Source: see :mod:`toolkit.tasks.ordinal`.
    """

    def __init__(self, conditional: nn.Module) -> None:
        """Take the layers that give these log-odds [B, C - 1]."""
        super().__init__()
        self.conditional = conditional

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, P] -> logits [B, C], whose exponentials come to 1."""
        odds = self.conditional(embedding)
        odds = odds.to(torch.promote_types(odds.dtype, torch.float32))  # products of many small shares
        passed = nn.functional.logsigmoid(odds).cumsum(-1)
        return nn.functional.pad(passed, (1, 0)) + nn.functional.pad(nn.functional.logsigmoid(-odds), (0, 1))


class NumberHead(nn.Module):
    """A number in the unit of the data, from one in standard deviations from the mean of the training numbers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: nn.Module) -> None:
        """Take the layers that give standard deviations [B, 1]."""
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, P] -> the number [B, 1]."""
        scaled = self.layers(embedding)
        return scaled.to(torch.promote_types(scaled.dtype, torch.float32)) * self.deviation + self.mean


def build_head(config: HeadConfig, embedding_size: int, classes: int, kind: Head = "scores") -> nn.Module:
    """A linear layer, one hidden layer with GELU and dropout, cosines, or these with a cache.

    Args:
        config: the recipe's section.
        embedding_size: P.
        classes: C.
        kind: what the task makes of the last layer.

    Raises:
        ToolkitError: cosines, which are scores, where the task wants something else.
    """
    if kind != "scores" and config.type not in ("mlp", "linear"):
        what = f"a head of type {config.type} gives a score a class, and {SCORELESS[kind]} none"
        raise ToolkitError(what, where="model.head.type", fix="use mlp or linear, or model.task=single-label")
    if kind == "conditional":
        return OrdinalHead(build_head(config, embedding_size, classes - 1))
    if kind == "number":
        return NumberHead(build_head(config, embedding_size, 1))
    if config.type == "cosine":
        return CosineHead(embedding_size, classes)
    if config.type == "tip-adapter":
        keys, values = torch.zeros(config.cached, embedding_size), torch.zeros(config.cached, classes)
        return TipAdapterHead(CosineHead(embedding_size, classes), keys, values)
    if config.type == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(embedding_size, classes))
    return nn.Sequential(
        nn.Linear(embedding_size, config.hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, classes),
    )
