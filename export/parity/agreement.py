"""What a difference in logits means for decisions: agreement, flips, and the metrics that labels give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from toolkit.data.target import Label
from toolkit.metrics.intervals import bounded_interval, images_needed
from toolkit.runtime.decision import Decision
from toolkit.runtime.preprocess import Float32
from toolkit.tasks.task import Task, Temperature

CONFIDENCE = 0.95
METRICS = ("accuracy", "nll", "expected_calibration_error")
OTHERS = ("mae", "quadratic_kappa", "rmse", "r2")
"""Of the tasks that have them."""
LISTED_FLIPS = 10
Verdict = Literal["kept", "undecided", "over"]


def verdict(precision: str, points: float, at_most: float, budget: float) -> Verdict:
    """Whether a graph keeps a budget of accuracy, which the bound decides and not the estimate.

    Args:
        precision: of the graph; fp32 does the reference's arithmetic, which parity proves, so its estimate stands.
        points: percentage points that it lost on the images.
        at_most: what it loses at most, with 95 % confidence.
        budget: percentage points that may be lost.
    """
    if points > budget:
        return "over"
    return "kept" if precision == "fp32" or at_most <= budget else "undecided"


def too_few(images: int, budget: float, what: str) -> str:
    """A sentence that says how many images would decide whether ``what`` keeps a budget."""
    return (
        f"{images:,} validation images can't show that {what} loses at most {budget:g} percentage points; "
        f"{images_needed(budget / 100):,} without a discordant one would"
    )


def agreement(
    decision: Decision, expected: Float32, logits: Float32, names: Sequence[str], groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """How often both give the same label.

    Args:
        decision: what production makes of logits.
        expected: reference logits [images, classes].
        logits: the graph's logits [images, classes].
        names: of the images.
        groups: of the images, whose decisions flip together; None where all are independent.

    Returns:
        ``top1_agreement``; ``top1_agreement_at_least`` and ``top1_agreement_at_most``, its exact confidence bounds
        (each one-sided, 95 %; :mod:`toolkit.metrics.intervals`); ``flips``, the flipped images with the largest
        margins first (:meth:`toolkit.runtime.decision.Decision.margins` of the reference); ``flip_count`` and
        ``smallest_margin`` over all images.
    """
    same = decision.agree(expected, logits)
    margins = decision.margins(expected)
    share = float(same.mean())
    low, high = bounded_interval(share, same.astype(np.float64) - share, len(same), groups, 2 * CONFIDENCE - 1)
    flipped = sorted(np.flatnonzero(~same).tolist(), key=lambda index: -margins[index])
    return {
        "top1_agreement": share,
        "top1_agreement_at_least": low,
        "top1_agreement_at_most": high,
        "flip_count": len(flipped),
        "flips": [{"image": names[index], "margin": float(margins[index])} for index in flipped[:LISTED_FLIPS]],
        "largest_flip_margin": float(margins[flipped[0]]) if flipped else None,
        "smallest_margin": float(margins.min()),
    }


def changes(
    task: Task,
    expected: Float32,
    logits: Float32,
    labels: Sequence[Label],
    temperature: Temperature,
    fitted_again: Temperature | None = None,
    cuts: Float32 | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracy, negative log-likelihood and calibration error: the reference's, the graph's, and the change.

    The graph's temperature is the reference's unless it was fitted again; ``cuts`` decide over labels that an image may
    have several of.
    """
    known = np.array(labels)
    reference = task.scores(expected, known, temperature).at(cuts)
    names = [name for name in (*METRICS, *OTHERS) if name in reference.names]
    metrics = {
        "a": reference.metrics(names),
        "b": task.scores(logits, known, fitted_again or temperature).at(cuts).metrics(names),
    }
    return {
        name: {
            "reference": metrics["a"][name],
            "graph": metrics["b"][name],
            "change": metrics["b"][name] - metrics["a"][name],
        }
        for name in metrics["a"]
    }
