"""Accuracy against images a class, a line for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from toolkit.reporting.plot_style import LOOK, save

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind readers tell apart."""
MARKERS = "osD^vP"


def plot_few_shot(content: dict[str, Any], path: Path) -> None:
    """Draw means over the seeds with their 95 % intervals, and zero-shot as a dashed line.

    Args:
        content: of ``few_shot.json``.
        path: PNG file to write.
    """
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.subplots()
        shots = sorted({result["shots"] for result in content["results"]})
        for place, name in enumerate(content["methods"]):
            mine = [result for result in content["results"] if result["method"] == name]
            shift = 1 + 0.02 * (place - (len(content["methods"]) - 1) / 2)  # so that no interval hides another
            x, y = [result["shots"] * shift for result in mine], [100 * result["accuracy"] for result in mine]
            reach = [
                [100 * (result["accuracy"] - result["interval"][0]) if result["interval"] else 0 for result in mine],
                [100 * (result["interval"][1] - result["accuracy"]) if result["interval"] else 0 for result in mine],
            ]
            axes.errorbar(
                x,
                y,
                reach,
                label=name,
                color=COLORS[place % len(COLORS)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                elinewidth=0.8,
            )
        if content["zero_shot"] is not None:
            axes.axhline(100 * content["zero_shot"], color="#666666", linestyle="--", linewidth=1)
            axes.annotate(
                f"zero-shot {100 * content['zero_shot']:.1f} %",
                (shots[0], 100 * content["zero_shot"]),
                xytext=(0, 3),
                textcoords="offset points",
                color="#444444",
                fontsize=8,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(shots))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("training images a class (shots)")
        axes.set_ylabel("test accuracy (%)")
        top = max(content["results"], key=lambda result: result["accuracy"])
        seeds = len(content["results"][0]["seeds"])
        axes.set_title(
            f"{content['encoder']}: up to {top['accuracy']:.1%} with {top['shots']} a class; "
            f"mean and 95 % interval of {seeds} seeds"
        )
        axes.legend(loc="best", fontsize=8)
        save(figure, path)
