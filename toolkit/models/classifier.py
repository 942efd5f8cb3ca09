"""The classifier: encoder and head in one module, with the temperature of its probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.models.encoder import Encoder, Group


class Classifier(nn.Module):
    """Encoder, head and temperature; ``groups`` is the whole ordered list with ``head`` at its end."""

    temperature: Tensor

    def __init__(self, encoder: Encoder, head: nn.Module, labels: list[str]) -> None:
        super().__init__()
        self.encoder, self.head, self.labels = encoder, head, labels
        self.register_buffer("temperature", torch.ones(()))

    @property
    def groups(self) -> list[Group]:
        """Every group in the order of computation."""
        return [*self.encoder.groups, Group("head", (self.head,), self.head)]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits [B, classes] of [B, 3, height, width]."""
        return self.head(self.encoder(pixel_values))

    def reference_logits(self, pixel_values: Tensor) -> Tensor:
        """Logits by transformers' own forward pass of the encoder: what parity compares with."""
        return self.head(self.encoder.family.embed(self.encoder.model, pixel_values))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities [B, classes].

        Source: temperature scaling, Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        return torch.softmax(logits / self.temperature, dim=-1)
