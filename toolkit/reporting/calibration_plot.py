"""The reliability diagram: how often a stated confidence is right."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from toolkit.reporting.look import BLUE, GREY, ORANGE, with_interval
from toolkit.reporting.predictions import Array, Predictions

ERROR = "expected_calibration_error"


def plot_reliability(predictions: Predictions, summary: dict[str, Any]) -> Figure:
    """Accuracy against confidence on the test split in the bins of the calibration error, and how many images each has.

    Source: Guo et al., "On calibration of modern neural networks" (2017), figure 1.
    """
    figure = Figure(figsize=(5.6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often right as stated")
    entries = (
        ("as trained", False, ORANGE, summary["uncalibrated"]["test"]),
        (f"calibrated, temperature {predictions.temperature:.3g}", True, BLUE, summary["test"]),
    )
    bins = summary["calibration_bins"]
    for place, (name, calibrated, color, figures) in enumerate(entries):
        confidence, accuracy, share = _bins(predictions, bins, calibrated=calibrated)
        error = with_interval(figures[ERROR], figures["intervals"].get(ERROR))
        upper.plot(confidence, accuracy, color=color, linewidth=1, alpha=0.5)
        size = 12 + 160 * share[share > 0]
        upper.scatter(confidence, accuracy, size, color=color, label=f"{name}: calibration error {error}")
        left = (np.arange(bins) + 0.08 + 0.42 * place) / bins
        lower.bar(left, share, width=0.42 / bins, align="edge", color=color)
    figure.suptitle(f"reliability on {len(predictions.labels):,} test images", x=0.02, ha="left", fontweight="bold")
    upper.set_ylabel("share that is right (area of a point: images)")
    upper.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), fontsize=9, markerscale=0.6)
    lower.set_ylabel("share of images")
    lower.set_xlabel("confidence: probability of the predicted class")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    return figure


def _bins(predictions: Predictions, bins: int, *, calibrated: bool) -> tuple[Array, Array, Array]:
    """Mean confidence and accuracy of each bin that holds images, and the share of images of every bin."""
    probabilities = predictions.probabilities(calibrated=calibrated)
    confidence = probabilities.max(axis=1)
    right = (predictions.predicted == predictions.labels).astype(float)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    mean_confidence = np.bincount(which, confidence, bins)[filled] / count[filled]
    accuracy = np.bincount(which, right, bins)[filled] / count[filled]
    return mean_confidence, accuracy, count / len(right)
