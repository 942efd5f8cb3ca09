"""Classification heads: embedding [B, P] -> logits [B, classes]."""

from __future__ import annotations

from torch import nn

from toolkit.recipe.model import HeadConfig


def build_head(config: HeadConfig, embedding_size: int, classes: int) -> nn.Module:
    """A linear layer, or one hidden layer with GELU and dropout."""
    if config.type == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(embedding_size, classes))
    return nn.Sequential(
        nn.Linear(embedding_size, config.hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, classes),
    )
