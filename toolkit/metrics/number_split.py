"""The metrics of a split whose images have a number each: how far the predicted numbers lie from the true ones."""

# N images

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from toolkit.metrics.intervals import LEVEL, Array, group_sums, mean_interval
from toolkit.metrics.ordered import Agreement, spearman
from toolkit.metrics.split import SplitScores

NUMBER_METRICS = ("loss", "mae", "rmse", "r2", "spearman", "mean_baseline_mae", "images")
WITH_INTERVAL = NUMBER_METRICS[:-2]


class NumberScores(SplitScores):
    """Predicted numbers, held against the true ones.

    ``mae`` is the mean absolute error and ``rmse`` the root of the mean squared one, both in the number's unit; ``r2``
    the share of the numbers' variance that is explained, as scikit-learn has it; ``spearman`` the correlation of ranks;
    ``loss`` the mean squared error; ``mean_baseline_mae`` the error of always saying the split's mean. Errors have
    Student's t on the logarithm of their mean for an interval, since they are skewed to the right, and so has the share
    of the variance that is left over; a correlation has that of its place between -1 and 1.

    Args:
        logits: predicted numbers [N, 1].
        labels: true numbers [N].
        temperature: a number has none.
        groups: of each image, or None where all are independent; they change intervals alone.
    """

    names = NUMBER_METRICS
    names_with_interval = WITH_INTERVAL

    def __init__(
        self,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        temperature: float = 1.0,
        groups: Sequence[str] | None = None,
    ) -> None:
        super().__init__(logits, np.asarray(labels, np.float64), 1.0, groups)
        self.values: Array = self.logits[:, 0].astype(np.float64)

    @cached_property
    def errors(self) -> Array:
        """Predicted minus true [N]."""
        return self.values - self.labels

    @cached_property
    def ranks(self) -> Agreement:
        """Spearman's correlation of the true and the predicted numbers."""
        return spearman(self.labels, self.values)

    @cached_property
    def _spread(self) -> Array:
        """Squared distances of the true numbers from their mean [N]."""
        spread: Array = (self.labels - self.labels.mean()) ** 2
        return spread

    def _value(self, name: str) -> float:
        if name == "images":
            return len(self.labels)
        if name == "spearman":
            return self.ranks.value
        if name == "mean_baseline_mae":
            return float(np.abs(self.labels - self.labels.mean()).mean())
        if name == "mae":
            return float(np.abs(self.errors).mean())
        squared = float((self.errors**2).mean())
        if name == "r2":
            spread = float(self._spread.mean())
            return 1 - squared / spread if spread else math.nan
        return math.sqrt(squared) if name == "rmse" else squared

    def _interval(self, name: str) -> tuple[float, float]:
        if name == "spearman":
            return self.ranks.interval(self.groups)
        if name == "mae":
            return mean_interval(np.abs(self.errors), self.groups)
        if name == "r2":
            low, high = ratio_interval(self.errors**2, self._spread, self.groups)
            return 1 - high, 1 - low
        low, high = mean_interval(self.errors**2, self.groups)
        return (math.sqrt(low), math.sqrt(high)) if name == "rmse" else (low, high)


def ratio_interval(above: Array, below: Array, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """The 95 % interval of the ratio of two means of values that are not negative [N].

    Student's t on its logarithm (delta method).
    """
    first, second = float(above.mean()), float(below.mean())
    if not second:
        return math.nan, math.nan
    if not first:
        return 0.0, 0.0
    sums = group_sums(above / first - below / second, groups)
    count = len(sums)
    if count < 2:
        return 0.0, math.inf
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(above)
    reach = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    return first / second * math.exp(-reach), first / second * math.exp(min(reach, 700.0))
