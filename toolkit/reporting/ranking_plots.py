"""How well probabilities rank images: ROC curves, and precision against recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.reporting.plot_style import BLUE, GREY, PALETTE, shortened, with_interval
from toolkit.reporting.wording import images_of


def plot_roc(curves: dict[str, Any], summary: dict[str, Any], split: str = "test") -> Figure:
    """True against false positive rate of classes against the rest, and their mean; of two classes, one.

    Args:
        curves: content of ``test_curves.json``.
        summary: of the run.
        split: that the curves are of.
    """
    figure, axes = _axes("ROC", "AUROC", "auroc", curves, summary, split)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    _draw(axes, curves["roc"], both=False)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    _legend(figure, axes)
    return figure


def plot_precision_recall(curves: dict[str, Any], summary: dict[str, Any], split: str = "test") -> Figure:
    """Precision over recall of classes against the rest, and their mean."""
    title, key = "precision and recall", "average_precision"
    figure, axes = _axes(title, "average precision", key, curves, summary, split)
    _draw(axes, curves["precision_recall"], both=True)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _legend(figure, axes)
    return figure


def _axes(
    title: str, name: str, key: str, curves: dict[str, Any], summary: dict[str, Any], split: str
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 5.9), layout="constrained")
    axes = figure.subplots()
    metrics = summary[split]
    value = with_interval(metrics[key], metrics["intervals"].get(key))
    images, ranked = curves["images"], curves["ranked_images"]
    few = "" if ranked == images else f" ({ranked:,} of them ranked)"
    figure.suptitle(f"{title} on {images_of(split, images)}{few}", x=0.02, ha="left", fontweight="bold")
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


def _draw(axes: Axes, family: dict[str, Any], *, both: bool) -> None:
    """A line a class (of two classes one says it all for ROC, not for precision); of many, a band and the lowest."""
    shown = family["classes"]
    if not shown:
        return
    grid = np.linspace(0, 1, len(family["mean"]))
    if family["of"] == 2 and len(shown) == 2 and not both:
        (first, _), (second, curve) = shown.items()
        axes.plot(
            grid, curve, color=BLUE, linewidth=2, label=f"{shortened(second, 30)}\nagainst {shortened(first, 30)}"
        )
        return
    known = family.get("known", family["of"])  # older files don't say it: their splits had images of every class
    all_shown = len(shown) == known
    if not all_shown:
        label = f"8 of 10 of the\n{known:,} classes"
        axes.fill_between(grid, family["low"], family["high"], color=BLUE, alpha=0.18, linewidth=0, label=label)
    for place, (name, curve) in enumerate(shown.items()):
        style = "--" if place >= len(PALETTE) // 2 else "-"  # told apart without their colours too
        label = shortened(name, 30) if all_shown else f"{shortened(name, 24)} (lowest {place + 1})"
        axes.plot(grid, curve, color=PALETTE[place + (not all_shown)], linestyle=style, linewidth=1.3, label=label)
    if family["of"] > 2:
        axes.plot(grid, family["mean"], color="black", linewidth=2, label="mean of the classes")
