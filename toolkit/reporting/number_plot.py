"""Predicted numbers over the true ones, and how far they are off."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from toolkit.reporting.plot_style import BLUE, ORANGE, with_interval

Array = npt.NDArray[np.float64]


def plot_numbers(name: str, labels: Array, values: Array, metrics: dict[str, Any], split: str = "test") -> Figure:
    """A point an image, and the histogram of the errors.

    Args:
        name: of the number.
        labels: true ones [images].
        values: predicted ones [images].
        metrics: of the split, with ``intervals``.
        split: its name.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    points, errors = figure.subplots(1, 2)
    ends = [float(min(labels.min(), values.min())), float(max(labels.max(), values.max()))]
    points.plot(ends, ends, color="#666666", linewidth=1, linestyle=":", label="no error")
    points.scatter(labels, values, s=8, color=BLUE, alpha=0.5, linewidth=0)
    points.set_xlabel(f"true {name}")
    points.set_ylabel(f"predicted {name}")
    r2 = with_interval(metrics["r2"], metrics["intervals"].get("r2"))
    points.set_title(f"{len(labels):,} {split} images, R² {r2}")
    points.legend()
    errors.hist(values - labels, bins=40, color=ORANGE)
    errors.set_xlabel(f"predicted minus true {name}")
    errors.set_ylabel("images")
    errors.set_title(f"mean absolute error {with_interval(metrics['mae'], metrics['intervals'].get('mae'))}")
    return figure
