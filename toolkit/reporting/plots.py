"""The plots of a finished run, from what it left in its folder, and of any split that was evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.figure import Figure
from PIL import Image

from toolkit.reporting.calibration_plot import plot_reliability
from toolkit.reporting.confusion_plot import plot_confusion
from toolkit.reporting.contact_sheet import contact_sheet
from toolkit.reporting.label_plots import plot_label_reliability, plot_labels
from toolkit.reporting.number_plot import Array, plot_numbers
from toolkit.reporting.plot_style import BLUE, LOOK, ORANGE, save
from toolkit.reporting.predictions import Predictions, read_numbers, read_predictions
from toolkit.reporting.ranking_plots import plot_precision_recall, plot_roc
from toolkit.reporting.run_curves import read_curves


def plot_run(run: Path, images: Sequence[Callable[[], Image.Image]] | None = None) -> None:
    """Draw ``plots/`` of a finished run: curves, confusion matrix, reliability, ROC, precision and recall, errors.

    Args:
        run: the run folder; everything but the contact sheet is drawn from its files.
        images: opens each test image, in the order of ``test_predictions.csv``; without it there is no contact sheet.
    """
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    plots = run / "plots"
    plots.mkdir(exist_ok=True)
    if history:
        with mpl.rc_context(LOOK):
            save(_curves(history, summary), plots / "curves.png")
    if "rmse" in summary["test"]:
        labels, values = read_numbers(run)
        plot_number_split(plots, summary["classes"][0], labels, values, summary["test"], "test")
        return
    curves = read_curves(run)
    plot_split(plots, summary, curves, read_predictions(run) if images is not None else None, images or ())


def plot_number_split(
    plots: Path, name: str, labels: Array, values: Array, metrics: dict[str, Any], split: str
) -> None:
    """Draw predicted over true numbers; see :func:`toolkit.reporting.number_plot.plot_numbers`."""
    with mpl.rc_context(LOOK):
        save(plot_numbers(name, labels, values, metrics, split), plots / "numbers.png")


def plot_split(
    plots: Path,
    summary: dict[str, Any],
    curves: dict[str, Any],
    predictions: Predictions | None,
    images: Sequence[Callable[[], Image.Image]],
    *,
    split: str = "test",
) -> None:
    """Draw the confusion matrix, reliability, ROC, precision and recall of a split, and its worst errors.

    Where an image may have several labels, what each label reaches stands in the place of the confusions.

    Args:
        plots: folder that is there.
        summary: with the split's metrics under its name.
        curves: see :func:`toolkit.metrics.curves.curves_of`; without a class to rank there is neither ROC nor recall.
        predictions: of the split; without them there is no contact sheet.
        images: opens each image, in their order.
        split: its name.
    """
    with mpl.rc_context(LOOK):
        if "label_reliability" in curves:
            save(plot_labels(summary, split), plots / "labels.png")
            save(plot_label_reliability(curves, summary, split), plots / "label_reliability.png")
        else:
            save(plot_confusion(summary, split), plots / "confusion_matrix.png")
            save(plot_reliability(curves, summary, split), plots / "reliability.png")
        if curves["roc"]["classes"]:
            save(plot_roc(curves, summary, split), plots / "roc.png")
            save(plot_precision_recall(curves, summary, split), plots / "precision_recall.png")
        if predictions is not None:
            save(contact_sheet(predictions, images, split), plots / "worst_errors.png")


def _curves(history: list[dict[str, Any]], summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    epochs = [entry for entry in history if "epoch_seconds" in entry]
    number = "rmse" in summary["test"]
    names, units = ("loss", "accuracy"), ("cross-entropy (nats)", "share of images")
    if number:
        names, units = ("loss", "mae"), ("of the epoch", f"mean absolute error of {summary['classes'][0]}")
    for axes, name, unit in zip(panels, names, units, strict=True):
        for split, color in (("train", ORANGE), ("validation", BLUE)):
            mine = [(entry["epoch"], entry[name]) for entry in epochs if entry["split"] == split]
            axes.plot(*zip(*mine, strict=True), marker="o", markersize=3, color=color, label=split)
        axes.axvline(summary["best_epoch"], color="#666666", linewidth=1, linestyle=":")
        axes.set_title(name)
        axes.set_xlabel("epoch (dotted: the one that was kept)")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    test = summary["test"]
    if number:
        panels[1].set_title(f"mean absolute error: {test['mae']:.4g} on {test['images']} test images")
        panels[0].legend()
        return figure
    panels[1].set_title(f"accuracy: {test['accuracy']:.1%} on {test['images']} test images")
    panels[0].legend()
    return figure
