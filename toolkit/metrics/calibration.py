"""How far stated confidence and accuracy lie apart: the expected calibration error, without its bias of few images."""

# N images, B bins, R draws

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import erf

from toolkit.metrics.intervals import LEVEL, effective_images

Array = npt.NDArray[np.float64]
BINS = 15
"""Bins at most (Guo et al., 2017, use 15)."""
IMAGES_A_BIN = 20
"""Fewer images than 15 times as many get fewer bins."""
DRAWS = 2000


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error of a split, in bins that hold equally many images."""

    value: float
    """Debiased: the true gap whose binned error would on average be the one that was found."""
    interval: tuple[float, float]
    """95 %; holds ``value``."""
    binned: float
    """The mean gap over the bins as it was found, which few images make larger than the true one."""
    confidence: Array
    """Mean of each bin [B]."""
    accuracy: Array
    """Of each bin [B]."""
    share: Array
    """Share of the images in each bin [B]."""


def calibration_error(
    confidence: Array, right: npt.NDArray[np.bool_], groups: Sequence[str] | None = None
) -> CalibrationError:
    """Mean gap between confidence and accuracy over bins of equally many images.

    Chance alone opens gaps: a perfectly calibrated classifier has a binned error above 0, the more so the fewer images
    a bin holds. So binned errors are foreseen for a true gap that is the same in every bin, with binomial noise. The
    value is the gap for which the binned error that was found is their mean, the interval the gaps for which it is
    among the middle 95 %. An error that is smaller than chance alone makes it half of the time says no more than that
    median: its upper end is the median's (a power constraint), or luck would be taken for certainty.

    Args:
        confidence: probability of the predicted class [N].
        right: whether the prediction is right [N].
        groups: of each image; images of one group make the noise larger.

    Source: Guo et al., "On calibration of modern neural networks" (2017); the bias and its correction by simulated
    noise: Kumar, Liang and Ma, "Verified uncertainty calibration" (2019), section 5 and appendix; the constraint:
    Cowan, Cranmer, Gross and Vitells, "Power-constrained limits" (2011).
    """
    hits = right.astype(np.float64)
    count, mean, accuracy = _bins(confidence, hits)
    share, gap = count / len(confidence), accuracy - mean
    steadied = (accuracy * count + mean) / (count + 1)  # an accuracy of 0 or 1 is not known without error
    variance = np.maximum(steadied * (1 - steadied), mean * (1 - mean)) / count
    if groups is not None:
        gaps = hits - confidence
        variance *= len(gaps) / effective_images(len(gaps), gaps - gaps.mean(), groups)
    error = np.sqrt(variance)
    draws = np.random.default_rng(0).standard_normal((DRAWS, len(count))) * error
    binned, tail = float(share @ np.abs(gap)), (1 - LEVEL) / 2

    def expected(true: float) -> float:
        """The mean of folded normal gaps (Leone, Nelson and Nottingham, 1961)."""
        scaled = np.divide(true, error, out=np.full(len(error), np.inf), where=error > 0)
        noise = error * math.sqrt(2 / math.pi) * np.exp(-(scaled**2) / 2)
        return float(share @ (noise + true * erf(scaled / math.sqrt(2))))

    def quantile(true: float, level: float) -> float:
        return float(np.quantile(np.abs(true + draws) @ share, level))

    value, low = _reaches(expected, binned), _reaches(partial(quantile, level=1 - tail), binned)
    high = _reaches(partial(quantile, level=tail), max(binned, quantile(0.0, 0.5)))
    return CalibrationError(value, (min(low, value), max(high, value)), binned, mean, accuracy, share)


def _bins(confidence: Array, hits: Array) -> tuple[Array, Array, Array]:
    """Images, mean confidence and accuracy of bins of about equally many images; equal confidences share one."""
    bins = min(BINS, max(1, len(confidence) // IMAGES_A_BIN))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    which = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(which, minlength=len(edges) + 1).astype(np.float64)
    filled = count > 0
    sums = (np.bincount(which, values, len(edges) + 1)[filled] for values in (confidence, hits))
    mean, accuracy = (total / count[filled] for total in sums)
    return count[filled], mean, accuracy


def _reaches(grows: Callable[[float], float], target: float) -> float:
    """The smallest gap from 0 to 1 for which a growing function reaches a target; 1 if none does."""
    if grows(0.0) >= target:
        return 0.0
    return float(brentq(lambda gap: grows(gap) - target, 0.0, 1.0, xtol=1e-6)) if grows(1.0) > target else 1.0
