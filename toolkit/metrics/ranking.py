"""How well scores rank the images of one class before the others: AUROC and average precision, with influences."""

# N images

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
POINTS = 201
"""Points that a curve is thinned to."""
TINY = 1e-9
"""A recall of 0 that only a threshold with an image of the class reaches."""


@dataclass(frozen=True)
class ClassRanking:
    """One class against the rest; equal scores count as one threshold."""

    auroc: float
    """Area under the ROC curve; NaN without an image of the class or of another one."""
    average_precision: float
    """Mean precision at the images of the class; NaN without one."""
    auroc_influence: Array
    """N times the derivative of the metric by each image's weight [N]; its mean is 0."""
    average_precision_influence: Array
    roc: Array
    """True positive rate at ``POINTS`` even false positive rates from 0 to 1."""
    precision_recall: Array
    """Precision at the first threshold that reaches each of ``POINTS`` even recalls from 0 to 1."""

    def without_influences(self) -> ClassRanking:
        """The metrics and the curves alone."""
        return replace(self, auroc_influence=np.empty(0), average_precision_influence=np.empty(0))


def rank_class(scores: Array, positive: npt.NDArray[np.bool_]) -> ClassRanking:
    """Rank images by a class's score.

    Args:
        scores: of the class [N]; any increasing function of its probability.
        positive: whether an image is of the class [N].

    Source: variance of the AUROC by its placements, DeLong et al., "Comparing the areas under two or more
    correlated receiver operating characteristic curves" (1988); average precision as scikit-learn has it.
    """
    total, order = len(scores), np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    group = np.zeros(total, np.int64)
    group[order] = np.searchsorted(ends, np.arange(total))
    seen = ends + 1.0
    found = np.cumsum(hits)[ends].astype(np.float64)
    false = seen - found
    positives, negatives = found[-1], false[-1]
    new, new_false = np.diff(found, prepend=0), np.diff(false, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        above = (found - new / 2) / positives  # share of the positives that a negative there lies behind
        below = (negatives - false + new_false / 2) / negatives  # share of the negatives behind a positive there
        auroc = float((new * below).sum() / positives)
        influence = total * np.where(positive, (below[group] - auroc) / positives, (above[group] - auroc) / negatives)
        precision = found / seen
        average = float((new * precision).sum() / positives)
        # an image's weight changes its own term, and the precision at every image that lies no higher
        rises, falls = (np.cumsum(each[::-1])[::-1] for each in (new / seen, new * found / seen**2))
        own = np.where(positive, precision[group] - average + rises[group], 0.0)
        average_influence = total * (own - falls[group]) / positives
        recalls, rates = found / positives, false / negatives
    grid = np.linspace(0, 1, POINTS)
    return ClassRanking(
        auroc=auroc,
        average_precision=average,
        auroc_influence=influence,
        average_precision_influence=average_influence,
        roc=np.interp(grid, np.append(0.0, rates), np.append(0.0, recalls)),
        precision_recall=precision[np.minimum(np.searchsorted(recalls, np.maximum(grid, TINY)), len(ends) - 1)],
    )
