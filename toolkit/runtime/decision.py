"""What is decided of an image from its logits: the part of a task that production runs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from toolkit.errors import ToolkitError
from toolkit.runtime.preprocess import Float32

Integers = npt.NDArray[np.int64]


class Decision(ABC):
    """From logits [images, classes] to what is said of each image."""

    name: str
    """Of the task; a bundle's manifest holds it."""

    @abstractmethod
    def decide(self, logits: Float32) -> Integers:
        """The class that each image is said to be [images]."""

    @abstractmethod
    def margins(self, logits: Float32) -> Float32:
        """By how much the logits of each image hold its decision apart from another one [images]."""


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


class LargestScore(LargestLogit):
    """One label an image, as above; each class has a probability of its own, and they need not come to 1."""

    name = "sigmoid-scores"


DECISIONS: dict[str, Decision] = {each.name: each for each in (LargestLogit(), LargestScore())}


def decision_of(task: str) -> Decision:
    """The decision of a task that a bundle names.

    Raises:
        ToolkitError: this version knows no such task.
    """
    if task not in DECISIONS:
        what = f"this version knows no task {task!r}, only {', '.join(DECISIONS)}"
        raise ToolkitError(what, where="manifest.json", fix="upgrade clip-toolkit")
    return DECISIONS[task]
