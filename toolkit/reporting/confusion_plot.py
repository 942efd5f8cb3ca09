"""Which classes are taken for which: a matrix, or of many classes the most frequent confusions."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolkit.reporting.plot_style import BLUE, shortened

MATRIX_CLASSES = 30
"""A matrix of more classes can't be read."""
PAIRS = 30


def plot_confusion(summary: dict[str, Any], split: str = "test") -> Figure:
    """The confusion matrix of a split, a row a true class; of more than 30 classes a bar a confusion."""
    if summary["confusion_matrix"] is not None and len(summary["classes"]) <= MATRIX_CLASSES:
        return _matrix(np.array(summary["confusion_matrix"]), summary["classes"], _title(summary, split))
    return _pairs(summary, split)


def _title(summary: dict[str, Any], split: str) -> str:
    images = summary[split]["images"]
    return f"{split}: {round(summary[split]['accuracy'] * images):,} of {images:,} images right"


def _matrix(matrix: np.ndarray, names: list[str], title: str) -> Figure:
    labels = [shortened(name, 24) for name in names]
    side = min(14.0, 2.6 + 0.45 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_yticks(range(len(labels)), labels)
    for row, column in np.ndindex(matrix.shape):
        if matrix[row, column]:
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    return figure


def _pairs(summary: dict[str, Any], split: str) -> Figure:
    pairs = summary["confusions"][:PAIRS]
    figure = Figure(figsize=(8.4, 1.6 + 0.24 * max(4, len(pairs))), layout="constrained")
    axes = figure.subplots()
    names = [f"{shortened(each['label'], 24)} → {shortened(each['predicted'], 24)}" for each in pairs]
    places = np.arange(len(pairs))
    axes.barh(places, [each["images"] for each in pairs], color=BLUE)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")
    what = f"the {len(pairs)} most frequent confusions" if pairs else "no confusion"
    axes.set_title(
        f"{_title(summary, split)}; {what}\nof {len(summary['classes']):,} classes (true → predicted)", loc="left"
    )
    return figure
