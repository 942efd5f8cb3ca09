"""How well probabilities rank images: ROC curves, and precision against recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from toolkit.reporting.look import BLUE, GREY, PALETTE, shortened, with_interval
from toolkit.reporting.predictions import Array, Predictions

Curve = tuple[Array, Array]


def plot_roc(predictions: Predictions, summary: dict[str, Any]) -> Figure:
    """True against false positive rate of each class against the rest, and their mean; of two classes, one."""
    curves = [_roc(predictions, index) for index in range(len(predictions.classes))]
    figure, axes = _axes("ROC", "AUROC", "auroc", predictions, summary)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    _draw(axes, curves, predictions.classes)
    if len(curves) > 2:
        grid = np.linspace(0, 1, 1001)
        mean = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
        axes.plot(grid, mean, color="black", linewidth=2, label="mean of the classes")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    _legend(figure, axes)
    return figure


def plot_precision_recall(predictions: Predictions, summary: dict[str, Any]) -> Figure:
    """Precision over recall of each class against the rest."""
    curves = [_precision_recall(predictions, index) for index in range(len(predictions.classes))]
    figure, axes = _axes("precision and recall", "average precision", "average_precision", predictions, summary)
    _draw(axes, curves, predictions.classes, both=True)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _legend(figure, axes)
    return figure


def _axes(title: str, name: str, key: str, predictions: Predictions, summary: dict[str, Any]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 5.9), layout="constrained")
    axes = figure.subplots()
    test = summary["test"]
    value = with_interval(test[key], test["intervals"].get(key))
    figure.suptitle(f"{title} on {len(predictions.labels):,} test images", x=0.02, ha="left", fontweight="bold")
    axes.set_title(f"{name}, mean of the classes, 95 % interval: {value}", fontsize=9, fontweight="normal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.03)
    axes.set_aspect("equal")
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Names beside the axes: curves of many classes go everywhere within them."""
    lines, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(lines, names, loc="outside right upper", fontsize=9)


def _draw(axes: Axes, curves: Sequence[Curve], classes: Sequence[str], *, both: bool = False) -> None:
    """A line a class; of two classes one line says it all for ROC, not for precision."""
    if len(curves) == 2 and not both:
        axes.plot(
            *curves[1],
            color=BLUE,
            linewidth=2,
            label=f"{shortened(classes[1], 30)}\nagainst {shortened(classes[0], 30)}",
        )
        return
    few = len(curves) <= len(PALETTE)
    for place, (curve, name) in enumerate(zip(curves, classes, strict=True)):
        color = PALETTE[place] if few else BLUE
        label = shortened(name, 30) if few else ("each class" if place == 0 else None)
        style = "--" if few and place >= len(PALETTE) // 2 else "-"  # told apart without their colours too
        width, alpha = (1.3, 1.0) if few else (0.8, 0.35)
        axes.plot(*curve, color=color, linestyle=style, linewidth=width, alpha=alpha, label=label)


def _roc(predictions: Predictions, index: int) -> Curve:
    false, true, _ = roc_curve(predictions.labels == index, predictions.probabilities()[:, index])
    return false, true


def _precision_recall(predictions: Predictions, index: int) -> Curve:
    precision, recall, _ = precision_recall_curve(predictions.labels == index, predictions.probabilities()[:, index])
    return recall, precision
