"""What the plots of a split draw, as numbers whose count depends on neither its images nor its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.metrics.class_ranking import Ranking
from toolkit.metrics.intervals import Array
from toolkit.metrics.split import SplitScores

SHOWN = 10
"""Up to so many classes get a curve each."""
LOWEST = 4
"""Of more classes, so many get one: those with the lowest area under it."""
HISTOGRAM = 20
"""Bars of the histogram of the confidence."""
BAND = (0.1, 0.9)
"""Quantiles over the classes between which most curves run."""


def curves_of(calibrated: SplitScores, as_trained: SplitScores, classes: Sequence[str]) -> dict[str, Any]:
    """Reliability, ROC and precision over recall.

    Args:
        calibrated: the scores with the temperature.
        as_trained: those without it.
        classes: names of the classes.

    Returns:
        ``images``, ``ranked_images`` (those that the curves of the classes rest on), ``reliability``, ``roc`` and
        ``precision_recall``: ``classes`` {name: curve} of some or all classes, ``mean``, and ``low`` and ``high``,
        the quantiles over the ``known`` of all classes (those with images), each over even steps of the x axis from
        0 to 1. Where an image may have several labels, also ``label_reliability`` {name: bins} of some or all.
    """
    ranking = calibrated.ranking
    return {
        "images": len(calibrated.labels),
        "ranked_images": len(ranking.places),
        "reliability": {"as_trained": _reliability(as_trained), "calibrated": _reliability(calibrated)},
        "roc": _family(ranking, "roc", "auroc", classes),
        "precision_recall": _family(ranking, "precision_recall", "average_precision", classes),
        **calibrated.label_curves(classes),
    }


def _reliability(scores: SplitScores) -> dict[str, list[float]]:
    found, edges = scores.calibration, np.linspace(0, 1, HISTOGRAM + 1)
    return {
        "confidence": found.confidence.tolist(),
        "accuracy": found.accuracy.tolist(),
        "share": found.share.tolist(),
        "histogram": (np.histogram(scores.stated, edges)[0] / len(scores.stated)).tolist(),
    }


def _family(ranking: Ranking, curve: str, area: str, classes: Sequence[str]) -> dict[str, Any]:
    known = [index for index, each in ranking.by_class.items() if np.isfinite(getattr(each, area))]
    if not known:
        return {"classes": {}, "of": len(classes), "known": 0, "mean": [], "low": [], "high": []}
    curves: Array = np.array([getattr(ranking.by_class[index], curve) for index in known])
    chosen = list(range(len(known)))
    if len(known) > SHOWN:
        chosen = sorted(chosen, key=lambda place: getattr(ranking.by_class[known[place]], area))[:LOWEST]
    low, high = np.quantile(curves, BAND, axis=0)
    return {
        "classes": {classes[known[place]]: curves[place].tolist() for place in chosen},
        "of": len(classes),
        "known": len(known),
        "mean": curves.mean(0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }
