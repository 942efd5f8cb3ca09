"""What a task says; nothing outside it knows which one it is."""

# B batch, N images, C classes

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn

from toolkit.metrics.by_task import SCORES
from toolkit.metrics.split import SplitScores
from toolkit.recipe.data import TargetKind
from toolkit.recipe.training import TrainingConfig
from toolkit.runtime.decision import Decision, LargestLogit
from toolkit.tasks.loss import Loss, class_weights
from toolkit.tasks.temperature import fit_temperature, temperature_interval, temperature_note

Activation = Literal["softmax", "sigmoid"]
Temperature = float | list[float]
"""What logits are divided by for probabilities: of all classes, or one for each."""


class Task(ABC):
    """From logits [N, C] to a loss, probabilities, decisions, metrics and a temperature."""

    decision: Decision
    """What production decides; its name is the task's."""
    activation: Activation
    """Of the logits over the temperature, in PyTorch and in the graph."""
    target: TargetKind = "class"
    """What it takes to be known of an image."""

    @property
    def name(self) -> str:
        """As recipes, checkpoints and bundles write it."""
        return self.decision.name

    @abstractmethod
    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        """A module that takes logits [B, C], labels and a mix, and gives losses [B].

        Labels are places of classes [B], or 0 and 1 for each class [B, C], as :attr:`target` says.

        Args:
            config: the recipe's section.
            classes: by name.
            labels: of the training images.
            device: where its own tensors go.
        """

    def example_labels(self, images: int, classes: int, device: torch.device) -> Tensor:
        """Labels of images that there are not, to measure a step with."""
        return torch.arange(images, device=device) % classes

    def initial_temperature(self, classes: int) -> Tensor:
        """The temperature before it is fitted, in the shape that it has."""
        return torch.ones(())

    def scores(
        self,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        temperature: Temperature = 1.0,
        groups: Sequence[str] | None = None,
    ) -> SplitScores:
        """The metrics of a split: what :data:`toolkit.metrics.by_task.SCORES` has for the task's name."""
        return SCORES[self.name](logits, labels, temperature, groups)

    @abstractmethod
    def temperature(self, logits: Tensor, labels: Tensor, prior: Any = 1.0) -> Temperature:
        """The temperature that makes a split's labels likeliest."""

    @abstractmethod
    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """The 95 % interval of it."""

    def calibration(self, temperature: Temperature, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """What a summary says of a temperature: itself, its interval, and a sentence where validation says little.

        Args:
            temperature: that was fitted.
            logits: of validation [N, C].
            labels: of validation.
        """
        interval, errors = self.temperature_interval(logits, labels), int((~self.right(logits, labels)).sum())
        assert isinstance(temperature, float)
        return {
            "temperature": temperature,
            "temperature_interval": list(interval),
            "temperature_note": temperature_note(temperature, interval, errors, len(labels)),
        }

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each decision is the label [B], on the labels' device."""
        return torch.from_numpy(self.decision.decide(logits.float().cpu().numpy())).to(labels.device) == labels

    def probabilities(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Calibrated probabilities [B, C].

        Source: temperature scaling, Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        scaled = logits / temperature
        return torch.softmax(scaled, dim=-1) if self.activation == "softmax" else torch.sigmoid(scaled)


class SingleLabel(Task):
    """One label an image."""

    decision: Decision = LargestLogit()
    activation: Activation = "softmax"

    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        """Cross-entropy; see :class:`toolkit.tasks.loss.Loss`."""
        return Loss(config, class_weights(config.class_weights, classes, labels, device))

    def temperature(self, logits: Tensor, labels: Tensor, prior: float = 1.0) -> float:
        """See :func:`toolkit.tasks.temperature.fit_temperature`."""
        return fit_temperature(logits, labels, prior)

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """See :func:`toolkit.tasks.temperature.temperature_interval`."""
        return temperature_interval(logits, labels)

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether the largest logit is the label's, without a copy to the host."""
        return logits.argmax(-1) == labels


SINGLE_LABEL = SingleLabel()
