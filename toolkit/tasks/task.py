"""What a task says; nothing outside it knows which one it is."""

# B batch, N images, C classes

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.metrics.by_task import SCORES
from toolkit.metrics.split import SplitScores
from toolkit.recipe.data import TargetKind
from toolkit.recipe.training import TrainingConfig
from toolkit.runtime.decision import Decision, LargestLogit
from toolkit.tasks.loss import Loss, class_weights
from toolkit.tasks.temperature import fit_temperature, temperature_interval, temperature_note

Activation = Literal["softmax", "sigmoid", "cumulative", "none"]
"""``cumulative``: the temperature divides the log-odds of lying beyond each class (:mod:`toolkit.ordered`); ``none``: a
number has no probabilities."""
Head = Literal["scores", "conditional", "number"]
"""What the head's last layer gives: a logit a class; or, of ordered classes, the log-odds of passing each but the last
where it is reached, from which :class:`toolkit.models.head.OrdinalHead` makes a logit a class; or a number in standard
deviations, which :class:`toolkit.models.head.NumberHead` scales."""
Temperature = float | list[float]
"""What logits are divided by for probabilities: of all classes, or one for each."""


class Task(ABC):
    """From logits [N, C] to a loss, probabilities, decisions, metrics and a temperature."""

    decision: Decision
    """What production decides; its name is the task's."""
    activation: Activation
    """Of the logits over the temperature, in PyTorch and in the graph."""
    head: Head = "scores"
    headline = "accuracy"
    """Metric of each epoch beside the loss: the mean of what :meth:`right` gives."""
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

    def prepare(self, head: nn.Module, classes: Sequence[str], labels: Tensor) -> None:
        """Give the head what it must know of the training labels [N]; of classes there is nothing."""
        return

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

    def order_of(self, classes: Sequence[str], *, given: bool) -> str:
        """What a line says of the order of the classes; nothing where it means nothing.

        Args:
            classes: in the order of the logits.
            given: whether the recipe wrote them down in this order.

        Raises:
            ToolkitError: it means something, and nobody said what it is.
        """
        return ""

    def check_metric(self, name: str) -> None:
        """Refuse a metric to select an epoch by that the task has not.

        Raises:
            ToolkitError: it has others.
        """
        known = cast(type[SplitScores], SCORES[self.name]).names
        if name not in known:
            what = f"model.task {self.name} has no metric {name!r}"
            raise ToolkitError(what, where="training.select_by", fix=f"choose from {', '.join(known)}")

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
