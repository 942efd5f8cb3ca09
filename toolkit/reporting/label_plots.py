"""Plots of labels that an image may have beside others: what each reaches, and how honest its probability is."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from toolkit.reporting.plot_style import BLUE, GREY, PALETTE, shortened, with_interval
from toolkit.reporting.wording import images_of

SHOWN = 40
"""Labels that get a row; of more, those with the lowest F1."""
MEASURES = {"precision": "precision", "recall": "recall", "average_precision": "average precision"}


def plot_labels(summary: dict[str, Any], split: str = "test") -> Figure:
    """Precision, recall and average precision of each label, with their 95 % intervals."""
    metrics = summary[split]
    labels = sorted(metrics["per_class"].items(), key=lambda pair: pair[1]["f1"] or 0.0)
    shown = labels[:SHOWN][::-1]
    figure = Figure(figsize=(9.6, 1.9 + 0.28 * max(4, len(shown))), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (key, name) in zip(panels, MEASURES.items(), strict=True):
        _measure(axes, shown, key)
        axes.set_xlabel(name)
    panels[0].set_yticks(range(len(shown)), [shortened(name, 24) for name, _ in shown], fontsize=8)
    which = f"the {SHOWN} of {len(labels):,} labels with the lowest F1" if len(labels) > SHOWN else "labels"
    title = f"{which} on {images_of(split, metrics['images'])}: micro F1 "
    title += with_interval(metrics["micro_f1"], metrics["intervals"].get("micro_f1"))
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold")
    return figure


def _measure(axes: Axes, labels: list[tuple[str, dict[str, Any]]], key: str) -> None:
    """A point a label with a line for its interval; none where there is nothing to measure."""
    for place, (_, each) in enumerate(labels):
        value, ends = each[key], each["intervals"][key]
        if value is None or not math.isfinite(value):
            continue
        axes.plot(ends, [place, place], color=BLUE, linewidth=1.5, alpha=0.6)
        axes.plot([value], [place], marker="o", markersize=4, color=BLUE)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def plot_label_reliability(curves: dict[str, Any], summary: dict[str, Any], split: str = "test") -> Figure:
    """How often labels are there against their probability: all answers in one heap, and each label.

    Args:
        curves: content of ``test_curves.json``, with ``label_reliability``.
        summary: of the run.
        split: that the curves are of.
    """
    figure = Figure(figsize=(8.6, 5.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often there as stated")
    for place, (name, bins) in enumerate(curves["label_reliability"].items()):
        style = "--" if place >= len(PALETTE) // 2 else "-"
        color = PALETTE[place % len(PALETTE)]
        axes.plot(
            bins["confidence"],
            bins["accuracy"],
            style,
            color=color,
            linewidth=1.2,
            marker=".",
            label=shortened(name, 30),
        )
    bins = curves["reliability"]["calibrated"]
    axes.plot(bins["confidence"], bins["accuracy"], color="black", linewidth=2, marker="o", label="all labels")
    metrics, key = summary[split], "expected_calibration_error"
    before = summary["uncalibrated"][split][key]
    after = with_interval(metrics[key], metrics["intervals"].get(key))
    figure.suptitle(f"calibration on {images_of(split, curves['images'])}", x=0.02, ha="left", fontweight="bold")
    axes.set_title(f"calibration error {after}, {before:.3f} without temperatures", fontsize=9, fontweight="normal")
    axes.set_xlabel("probability of the label")
    axes.set_ylabel("share of images that show it")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.03)
    axes.set_aspect("equal")
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", fontsize=9)
    return figure
