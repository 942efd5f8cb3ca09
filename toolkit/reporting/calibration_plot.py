"""The reliability diagram: how often a stated confidence is right."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from toolkit.reporting.plot_style import BLUE, GREY, ORANGE, with_interval
from toolkit.reporting.wording import images_of

ERROR = "expected_calibration_error"


def plot_reliability(curves: dict[str, Any], summary: dict[str, Any], split: str = "test") -> Figure:
    """Accuracy against confidence on a split in the bins of the calibration error, and a histogram of it.

    Args:
        curves: content of ``test_curves.json``.
        summary: of the run.
        split: that the curves are of.

    Source: Guo et al., "On calibration of modern neural networks" (2017), figure 1.
    """
    figure = Figure(figsize=(5.6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often right as stated")
    entries = (
        ("as trained", "as_trained", ORANGE, summary["uncalibrated"][split]),
        (f"calibrated, temperature {summary['temperature']:.3g}", "calibrated", BLUE, summary[split]),
    )
    for place, (name, key, color, metrics) in enumerate(entries):
        bins = curves["reliability"][key]
        error = with_interval(metrics[ERROR], metrics["intervals"].get(ERROR))
        upper.plot(bins["confidence"], bins["accuracy"], color=color, linewidth=1, alpha=0.5)
        size = 12 + 160 * np.array(bins["share"])
        label = f"{name}: calibration error {error}"
        upper.scatter(bins["confidence"], bins["accuracy"], size, color=color, label=label)
        bars = len(bins["histogram"])
        left = (np.arange(bars) + 0.08 + 0.42 * place) / bars
        lower.bar(left, bins["histogram"], width=0.42 / bars, align="edge", color=color)
    figure.suptitle(f"reliability on {images_of(split, curves['images'])}", x=0.02, ha="left", fontweight="bold")
    upper.set_ylabel("share that is right (area of a point: images)")
    upper.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), fontsize=9, markerscale=0.6)
    lower.set_ylabel("share of images")
    lower.set_xlabel("confidence: probability of the predicted class")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    return figure
