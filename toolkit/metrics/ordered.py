"""How far numbers lie from the true ones: quadratic kappa and Spearman's correlation, each with its influences."""

# N images

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolkit.metrics.intervals import Array, bounded_interval


@dataclass(frozen=True)
class Agreement:
    """A measure of agreement in [-1, 1]."""

    value: float
    """NaN where neither side varies."""
    influence: Array
    """N times its derivative by each image's weight [N]; its mean is 0."""

    def interval(self, groups: Sequence[str] | None = None) -> tuple[float, float]:
        """The 95 % interval, that of its place between -1 and 1; see :mod:`toolkit.metrics.intervals`.

        Numbers scatter less than answers of yes and no, so an image may tell as much as several of these; where
        nothing scatters, it tells as much as one.
        """
        if not math.isfinite(self.value):
            return math.nan, math.nan
        images = math.inf if -1 < self.value < 1 and self.influence.any() else len(self.influence)
        low, high = bounded_interval((self.value + 1) / 2, self.influence / 2, images, groups)
        return 2 * low - 1, 2 * high - 1


def quadratic_kappa(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Agreement:
    """Agreement beyond chance, where an error counts by the square of its distance.

    It is ``1 - D / E``: D the mean squared distance of label and prediction, E that of a label and the prediction of
    another image. Of classes they are distances in classes.

    Args:
        labels: numbers of the true classes [N].
        predicted: numbers of the predicted ones [N].

    Source: Cohen, "Weighted kappa" (1968).
    """
    x, y = (np.asarray(values, np.float64) for values in (labels, predicted))
    squared = (x - y) ** 2
    means = x.mean(), y.mean()
    variances = x.var(), y.var()
    seen, expected = float(squared.mean()), float(variances[0] + variances[1] + (means[0] - means[1]) ** 2)
    if not expected:
        return Agreement(math.nan, np.zeros(len(x)))
    # an image meets all predictions by its label, and all labels by its prediction
    meets = variances[1] + (x - means[1]) ** 2 + variances[0] + (y - means[0]) ** 2
    influence = -(squared - seen) / expected + seen * (meets - 2 * expected) / expected**2
    return Agreement(1 - seen / expected, influence)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Agreement:
    """Correlation of ranks; equal values share the mean of theirs.

    Args:
        x: numbers [N].
        y: numbers [N].

    Source: Spearman (1904); its influence function by Croux and Dehon, "Influence functions of the Spearman and
    Kendall correlation measures" (2010), here with ties.
    """
    first, second = (_Ranks(np.asarray(values, np.float64)) for values in (x, y))
    r, s = first.centred, second.centred
    both, of_r, of_s = float((r * s).mean()), float((r * r).mean()), float((s * s).mean())
    if not of_r or not of_s:
        return Agreement(math.nan, np.zeros(len(r)))
    value = both / math.sqrt(of_r * of_s)
    # an image changes its own term, and the ranks of those that lie above it
    by_both = r * s + first.above(s) + second.above(r) - 3 * both
    by_r, by_s = (
        each.centred**2 + 2 * each.above(each.centred) - 3 * mean for each, mean in ((first, of_r), (second, of_s))
    )
    influence = by_both / math.sqrt(of_r * of_s) - value / 2 * (by_r / of_r + by_s / of_s)
    return Agreement(value, influence)


class _Ranks:
    """Shares of the values that lie below each, half of the equal ones among them."""

    def __init__(self, values: Array) -> None:
        _, self.places, counts = np.unique(values, return_inverse=True, return_counts=True)
        below = np.cumsum(counts) - counts
        self.centred: Array = ((below + counts / 2) / len(values))[self.places] - 0.5

    def above(self, weights: Array) -> Array:
        """Mean over all images of a weight, counted where its value is larger, and half where it is equal [N]."""
        sums = np.bincount(self.places, weights)
        beyond = sums.sum() - np.cumsum(sums)
        found: Array = ((beyond + sums / 2) / len(weights))[self.places]
        return found
