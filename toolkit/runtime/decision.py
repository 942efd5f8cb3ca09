"""What is decided of an image from its logits: the part of a task that production runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import ToolkitError
from toolkit.ordered import log_odds_beyond, median_of
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.runtime.operating_point import OperatingPoint
from toolkit.runtime.preprocess import Float32

Integers = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
VALUE = "value"
"""Output of a graph that predicts a number: the number itself [batch, 1]."""


class Decision(ABC):
    """From logits [images, classes] to what is said of each image."""

    name: str
    """Of the task; a bundle's manifest holds it."""
    several_labels = False
    """Whether an image may have several, or none."""
    outputs: tuple[str, ...] = ("logits", "probabilities")
    """What its graph gives, each [batch, classes]."""
    cuts: Float32 | None = None
    """Logits from which on each class is said [classes]; None where one class is said of an image."""

    @abstractmethod
    def decide(self, logits: Float32) -> npt.NDArray[Any]:
        """The class that each image is said to be [images], or whether each label is said [images, classes]."""

    def agree(self, one: Float32, other: Float32) -> npt.NDArray[np.bool_]:
        """Of each image, whether both logits decide the same [images]."""
        same: npt.NDArray[np.bool_] = self.decide(one) == self.decide(other)
        return same

    def right(self, logits: Float32, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Of each image, whether what is decided is its label [images]."""
        right: npt.NDArray[np.bool_] = self.decide(logits) == labels
        return right

    def likeliest(self, logits: Float32) -> Integers:
        """The class of each image that a single label names [images]: what is decided."""
        return self.decide(logits)

    @abstractmethod
    def margins(self, logits: Float32) -> Float32:
        """By how much the logits of each image hold its decision apart from another one [images]."""

    def log_odds(self, logits: Float32, place: int, temperature: float) -> Float64:
        """Log-odds of a class's calibrated probability [images].

        Args:
            logits: [images, classes].
            place: of the class.
            temperature: of the probabilities.

        Raises:
            ToolkitError: the task has no such probability.
        """
        what = f"the task {self.name!r} has no probability that a threshold can be set on"
        raise ToolkitError(what, where="training.operating_point", fix="leave it out, or choose another model.task")


class LargestLogit(Decision):
    """One label an image: the class with the largest logit."""

    name = "single-label"

    def decide(self, logits: Float32) -> Integers:
        """The class with the largest logit."""
        decided: Integers = np.asarray(logits).argmax(-1)
        return decided

    def margins(self, logits: Float32) -> Float32:
        """The largest logit minus the second."""
        best: Float32 = np.sort(logits, axis=-1)[:, -2:]
        return best[:, 1] - best[:, 0]

    def log_odds(self, logits: Float32, place: int, temperature: float) -> Float64:
        """Of the softmax: the class's scaled logit minus the log of the others' summed exponentials."""
        scaled = np.asarray(logits, np.float64) / temperature
        others = np.delete(scaled, place, axis=-1)
        largest = others.max(-1)
        odds: Float64 = scaled[:, place] - largest - np.log(np.exp(others - largest[:, None]).sum(-1))
        return odds


class LargestScore(LargestLogit):
    """One label an image, as above; each class has a probability of its own, and they need not come to 1."""

    name = "sigmoid-scores"

    def log_odds(self, logits: Float32, place: int, temperature: float) -> Float64:
        """Of the sigmoid: the scaled logit itself."""
        odds: Float64 = np.asarray(logits, np.float64)[:, place] / temperature
        return odds


class MedianClass(Decision):
    """One of ordered classes: the median, which has the smallest expected distance to the true one.

    It is the first class that is more likely than not to be passed by none. The likeliest class would be right more
    often, and further off where it is wrong.
    """

    name = "ordinal"

    def decide(self, logits: Float32) -> Integers:
        """The median class."""
        return median_of(logits)

    def margins(self, logits: Float32) -> Float32:
        """The log-odds of lying beyond a class that are nearest to zero; as leads do, they change by two logits."""
        margins: Float32 = np.abs(log_odds_beyond(logits)).min(-1).astype(np.float32)
        return margins


class TheNumber(Decision):
    """A number, which ``logits`` [images, 1] are: there is nothing to decide, and no image gets another label."""

    name = "regression"
    outputs = ("logits", VALUE)

    def decide(self, logits: Float32) -> Integers:
        """The one there is, throughout."""
        return np.zeros(len(logits), np.int64)

    def right(self, logits: Float32, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Nothing is.

        Raises:
            ToolkitError: always: a budget of accuracy can't be kept without one.
        """
        what = "a number is off by more or less, never right or wrong, so no budget of accuracy can be kept"
        raise ToolkitError(
            what, where="model.task regression", fix="name the precision: --precision fp32, fp16 or int8"
        )

    def margins(self, logits: Float32) -> Float32:
        """None is needed."""
        return np.zeros(len(logits), np.float32)


class AtThreshold(Decision):
    """One class where its calibrated probability reaches a threshold, else what a task decides among the others.

    Args:
        task: the task's own decision.
        point: the class and its threshold.
        place: of the class among the logits.
    """

    def __init__(self, task: Decision, point: OperatingPoint, place: int) -> None:
        self.name, self.task, self.point, self.place = task.name, task, point, place

    def decide(self, logits: Float32) -> Integers:
        """The class where it reaches its threshold, else the likeliest of the others."""
        others = self.task.decide(np.delete(logits, self.place, axis=-1))
        return np.where(self._above(logits) >= 0, self.place, others + (others >= self.place))

    def margins(self, logits: Float32) -> Float32:
        """Distance to the threshold in logits; where another class is said, no more than its lead over the next one."""
        above = self._above(logits)
        margins, others = np.abs(above), np.delete(logits, self.place, axis=-1)
        if others.shape[-1] > 1:
            margins = np.where(above >= 0, margins, np.minimum(margins, self.task.margins(others)))
        return margins.astype(np.float32)

    def _above(self, logits: Float32) -> Float64:
        """By how much each image lies above the threshold, in logits [images]."""
        point = self.point
        odds = self.task.log_odds(logits, self.place, point.temperature)
        above: Float64 = point.temperature * (odds - np.log(point.threshold / (1 - point.threshold)))
        return above


class EachLabel(Decision):
    """Any number of labels an image: those whose logit reaches its cut.

    Args:
        thresholds: the cuts; without them a label is said from a probability of a half on.
    """

    name = "multi-label"
    several_labels = True

    def __init__(self, thresholds: LabelThresholds | None = None) -> None:
        self.cuts = None if thresholds is None else thresholds.array()

    def decide(self, logits: Float32) -> npt.NDArray[np.bool_]:
        """Whether each label is said [images, classes]; compared in single precision."""
        said: npt.NDArray[np.bool_] = np.asarray(logits, np.float32) >= self._cuts
        return said

    def agree(self, one: Float32, other: Float32) -> npt.NDArray[np.bool_]:
        """Whether all labels of an image are the same."""
        return np.asarray((self.decide(one) == self.decide(other)).all(-1))

    def right(self, logits: Float32, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether the labels that are said are the image's, and no other."""
        return np.asarray((self.decide(logits) == (np.asarray(labels) > 0)).all(-1))

    def margins(self, logits: Float32) -> Float32:
        """Distance to the nearest cut of a label that may be said."""
        distances = np.abs(np.asarray(logits, np.float64) - self._cuts)
        finite = np.minimum(distances, np.finfo(np.float32).max)
        return np.asarray(finite.min(-1), np.float32)

    def likeliest(self, logits: Float32) -> Integers:
        """The label with the largest logit, whether it is said or not."""
        return np.asarray(np.asarray(logits).argmax(-1), np.int64)

    @property
    def _cuts(self) -> Float32:
        return np.zeros((), np.float32) if self.cuts is None else self.cuts


DECISIONS: dict[str, Decision] = {
    each.name: each for each in (LargestLogit(), LargestScore(), EachLabel(), MedianClass(), TheNumber())
}


def decision_of(task: str) -> Decision:
    """The decision of a task that a bundle names.

    Raises:
        ToolkitError: this version knows no such task.
    """
    if task not in DECISIONS:
        what = f"this version knows no task {task!r}, only {', '.join(DECISIONS)}"
        raise ToolkitError(what, where="manifest.json", fix="upgrade clip-toolkit")
    return DECISIONS[task]


def at_thresholds(task: Decision, thresholds: LabelThresholds | None, labels: Sequence[str]) -> Decision:
    """A task's decision with thresholds of its labels, where there are some.

    Raises:
        ValueError: the task has none, or of other labels.
    """
    if thresholds is None:
        return task
    if not task.several_labels:
        raise ValueError(f"the task {task.name!r} says one class an image, and has thresholds of labels")
    thresholds.require(labels)
    return EachLabel(thresholds)


def at_point(task: Decision, point: OperatingPoint | None, labels: Sequence[str]) -> Decision:
    """A task's decision at an operating point, where there is one.

    Raises:
        ValueError: its class is none of the labels.
    """
    if point is None:
        return task
    if point.label not in labels:
        raise ValueError(f"the operating point is of {point.label!r}, which is no class")
    return AtThreshold(task, point, labels.index(point.label))
