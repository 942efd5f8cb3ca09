"""A number an image: what is minimised is the error in standard deviations of the training numbers."""

# B batch, N images, C one

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.recipe.data import TargetKind
from toolkit.recipe.training import TrainingConfig
from toolkit.runtime.decision import TheNumber
from toolkit.tasks.loss import Mixed
from toolkit.tasks.task import Activation, Head, Task

OF_CLASSES = ("label_smoothing", "class_weights", "focal_gamma")
"""Keys of the section ``training`` that mean nothing to a number."""


class NumberLoss(nn.Module):
    """Squared errors in standard deviations, halved; beyond ``delta`` of them linear.

    Source: Huber, "Robust Estimation of a Location Parameter" (1964).

    Args:
        deviation: of the training numbers.
        delta: in standard deviations, or None for squared errors throughout.
    """

    def __init__(self, deviation: float, delta: float | None) -> None:
        super().__init__()
        self.deviation, self.delta = deviation, delta

    def forward(self, logits_BC: Tensor, labels_B: Tensor, mix: Mixed | None = None) -> Tensor:
        """Losses [B]; of a mixed image, the mean of both numbers' by their shares."""
        loss_B = self._of(logits_BC, labels_B)
        if mix is None:
            return loss_B
        return mix.share * loss_B + (1 - mix.share) * self._of(logits_BC, labels_B[mix.partners])

    def _of(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        error = (logits_BC[:, 0] - labels_B.to(logits_BC.dtype)) / self.deviation
        if self.delta is None:
            return error**2 / 2
        return nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)


class Regression(Task):
    """A number: ``logits`` [B, 1] are it, in the unit of the data."""

    decision = TheNumber()
    activation: Activation = "none"
    head: Head = "number"
    target: TargetKind = "number"
    headline = "mae"

    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        """Mean squared error, or Huber's.

        Raises:
            ToolkitError: keys that are for classes, or numbers that are all equal.
        """
        asked = [key for key in OF_CLASSES if getattr(config, key)]
        asked += ["sampling"] if config.sampling == "balanced" else []
        if asked:
            what = f"model.task {self.name} has no classes for training.{asked[0]}"
            raise ToolkitError(what, where=f"training.{asked[0]}", fix="leave it out")
        return NumberLoss(_spread(labels, classes[0])[1], config.huber_delta)

    def prepare(self, head: nn.Module, classes: Sequence[str], labels: Tensor) -> None:
        """Give the head mean and standard deviation of the training numbers."""
        mean, deviation = _spread(labels, classes[0])
        head.mean.fill_(mean)  # type: ignore[operator, union-attr]
        head.deviation.fill_(deviation)  # type: ignore[operator, union-attr]

    def example_labels(self, images: int, classes: int, device: torch.device) -> Tensor:
        """Numbers [images] of images that there are not."""
        return torch.arange(images, device=device).float()

    def temperature(self, logits: Tensor, labels: Tensor, prior: Any = 1.0) -> float:
        """A number has no probability, and so none."""
        return 1.0

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """See above."""
        return 1.0, 1.0

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How far each number is off [B], whose mean is the headline."""
        return (logits[:, 0] - labels).abs()


def _spread(labels: Tensor, name: str) -> tuple[float, float]:
    """Mean and standard deviation of the training numbers.

    Raises:
        ToolkitError: they are all equal.
    """
    values = labels.double()
    deviation = float(values.std(correction=0))
    if deviation <= 1e-9 * max(1.0, float(values.abs().max())):
        what = f"all {len(values):,} training images have the same {name}, {float(values[0]):g}"
        raise ToolkitError(what, where="data.columns.number", fix="name a column whose numbers differ")
    return float(values.mean()), deviation
