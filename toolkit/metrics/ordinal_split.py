"""The metrics of a split whose classes are ordered: also how far a prediction lies from its label."""

# N images, K classes

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from toolkit.metrics.class_ranking import Ranking
from toolkit.metrics.intervals import Array, bounded_interval, mean_interval
from toolkit.metrics.ordered import Agreement, quadratic_kappa, spearman
from toolkit.metrics.split import METRICS, WITH_INTERVAL, Integers, SplitScores
from toolkit.ordered import log_probabilities, median_of

ORDERED = ("mae", "quadratic_kappa", "spearman")


class OrdinalSplitScores(SplitScores):
    """As :class:`~toolkit.metrics.split.SplitScores`, with the median class for a prediction.

    Beside its metrics ``mae``, the mean distance of predicted and true class in classes, ``quadratic_kappa`` and
    ``spearman`` of the predicted and the true class. The temperature divides the log-odds of lying beyond each class
    (:mod:`toolkit.ordered`).
    """

    names = (*METRICS[:-2], *ORDERED, *METRICS[-2:])
    names_with_interval = (*WITH_INTERVAL, *ORDERED)

    def __init__(
        self,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        temperature: float = 1.0,
        groups: Sequence[str] | None = None,
    ) -> None:
        super().__init__(logits, labels, temperature, groups)
        self._calibrated = SplitScores(log_probabilities(self.logits, temperature), self.labels)
        """Log-probabilities in the place of logits."""

    @cached_property
    def predicted(self) -> Integers:
        """The median class [N]."""
        return median_of(self.logits)

    def log_probabilities(self, classes: Integers) -> Array:
        """Log-probability of one class of each image [N]."""
        return self._calibrated.log_probabilities(classes)

    def likeliest(self, count: int) -> tuple[Integers, Array]:
        """The likeliest classes of each image and their probabilities, both [N, count]."""
        return self._calibrated.likeliest(count)

    @cached_property
    def ranking(self) -> Ranking:
        """One class against the rest, each class in turn."""
        return self._calibrated.ranking

    @cached_property
    def distances(self) -> Array:
        """Classes between the predicted and the true one [N]."""
        distances: Array = np.abs(self.predicted - self.labels).astype(np.float64)
        return distances

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """Quadratic kappa and Spearman's correlation."""
        return {
            "quadratic_kappa": quadratic_kappa(self.labels, self.predicted),
            "spearman": spearman(self.labels, self.predicted),
        }

    def _value(self, name: str) -> float:
        if name in self.agreements:
            return self.agreements[name].value
        return float(self.distances.mean()) if name == "mae" else super()._value(name)

    def _interval(self, name: str) -> tuple[float, float]:
        """That of a distance of 0 is one of its share of the largest there can be."""
        if name in self.agreements:
            return self.agreements[name].interval(self.groups)
        if name != "mae":
            return super()._interval(name)
        if self.distances.any():
            return mean_interval(self.distances, self.groups)
        none, most = self.distances, self.classes - 1
        return 0.0, most * bounded_interval(0.0, none, len(none), self.groups)[1]
