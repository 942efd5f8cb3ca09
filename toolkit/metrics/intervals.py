"""95 % intervals that hold near 0 and 1, for images that are independent or come in groups.

A bounded metric gets the exact binomial interval (Clopper and Pearson, 1934) of so many images as carry
its information: its effective sample size. For an accuracy without groups that is the number of images, so the
interval is the exact one. Images of one group (a patient) say less than as many independent ones; the design effect
counts how much less (Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data", 1998). Unlike a percentile bootstrap, such an interval keeps its width where
nothing is wrong.
"""

# N images, G groups

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit

Array = npt.NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Drop:
    """What a share loses from one classifier to another on the same images, in units of the share."""

    value: float
    interval: tuple[float, float]
    """95 %, two-sided."""
    at_most: float
    """The bound that the loss stays below with 95 % confidence, one-sided."""


def exact_interval(share: float, images: float, level: float = LEVEL) -> tuple[float, float]:
    """The exact binomial interval of a share seen on a number of images, which need not be whole.

    Source: Clopper and Pearson (1934), by quantiles of the beta distribution.
    """
    tail, hits = (1 - level) / 2, share * images
    low = float(betaincinv(hits, images - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, images - hits, 1 - tail)) if hits < images else 1.0
    return low, high


def bounded_interval(
    value: float, influence: Array, images: float, groups: Sequence[str] | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """The interval of a metric in [0, 1].

    Args:
        value: the metric.
        influence: of each image [N]: N times the metric's derivative by the image's weight; its mean is 0.
        images: independent images that would tell as much where the metric is 1, when the influence is 0
            throughout; never exceeded.
        groups: of each image, or None where all are independent.
        level: share of such intervals that shall hold the true value.
    """
    variance = float(np.square(influence).sum()) / len(influence) ** 2
    if variance > 0 and 0 < value < 1:
        images = min(images, value * (1 - value) / variance)
    if groups is not None:
        images = effective_images(images, influence, groups, level)
    low, high = exact_interval(value, images, level)
    return min(low, value), max(high, value)


def mean_interval(values: Array, groups: Sequence[str] | None = None, level: float = LEVEL) -> tuple[float, float]:
    """The interval of the mean of values that are not negative, such as losses [N].

    Student's t on the logarithm of the mean (delta method), since losses are skewed to the right.
    """
    mean = float(values.mean())
    if mean <= 0:
        return mean, mean
    sums = group_sums(values - mean, groups)
    count = len(sums)
    if count < 2:
        return 0.0, math.inf
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(values)
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error / mean
    return mean * math.exp(-reach), mean * math.exp(min(reach, 700.0))


def paired_drop(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], groups: Sequence[str] | None) -> Drop:
    """What the share of right images loses from one classifier to another, both on the same images [N].

    The two shares of discordant images get exact intervals, which are put together as those of independent shares
    (Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    1998), so that no discordant image among 256 still leaves a loss of up to 1.2 points possible.
    """
    lost = (before & ~after).astype(np.float64)
    won = (after & ~before).astype(np.float64)
    value = float((lost - won).mean())
    low, high = _difference(lost, won, groups, LEVEL)
    return Drop(value, (low, high), _difference(lost, won, groups, 2 * LEVEL - 1)[1])


def images_needed(share: float, level: float = LEVEL) -> int:
    """So many images, none of which is discordant, bound a loss by a share, one-sided."""
    return math.ceil(math.log(1 - level) / math.log1p(-share)) if 0 < share < 1 else 1


def effective_images(images: float, influence: Array, groups: Sequence[str], level: float = LEVEL) -> float:
    """So many independent images tell as much as these in their groups.

    Where the influence is 0 throughout, images of one group are taken for copies of each other.
    """
    sums, alone = group_sums(influence, groups), float(np.square(influence).sum())
    count, total = len(sums), len(influence)
    if count < 2:
        return 1.0
    if alone > 0:
        effect = count / (count - 1) * float(np.square(sums).sum()) / alone
    else:
        effect = float(np.square(group_sums(np.ones(total), groups)).sum()) / total
    normal, student = (float(stdtrit(degrees, (1 + level) / 2)) for degrees in (total - 1, count - 1))
    return max(1.0, images / max(1.0, effect * (student / normal) ** 2))


def group_sums(values: Array, groups: Sequence[str] | None) -> Array:
    """Sum of the values [N] of each group [G]; without groups the values themselves."""
    if groups is None:
        return values
    places = np.unique(np.array(groups), return_inverse=True)[1]
    return np.bincount(places, values).astype(np.float64)


def _difference(lost: Array, won: Array, groups: Sequence[str] | None, level: float) -> tuple[float, float]:
    ends = [
        (float(each.mean()), *bounded_interval(float(each.mean()), each - each.mean(), len(each), groups, level))
        for each in (lost, won)
    ]
    (p, p_low, p_high), (q, q_low, q_high) = ends
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)
