"""What pages say of a number: its metrics, its plots, and where it is furthest off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import facts, headline, joined, number, page, plot, reads, table, within
from toolkit.reporting.wording import images_of

NUMBER_METRICS = {
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman",
    "mean_baseline_mae": "mean absolute error of always saying the mean",
}


def number_headline(metrics: Mapping[str, Any], images: str) -> list[tuple[str, str]]:
    """The metrics that a reader asks for first.

    Args:
        metrics: of a split, with ``intervals``.
        images: how many of which split, in words.
    """
    low, high = metrics["intervals"]["mae"]
    return [
        (number(metrics["mae"]), f"mean absolute error on {images} (95 % interval {number(low)} to {number(high)})"),
        (number(metrics["r2"]), "of the variance is explained (R²)"),
    ]


def number_plots(images: str, folder: Path) -> Markup:
    """The training curves and the predicted numbers over the true ones; plots that were not drawn are left out."""
    return joined(
        [
            plot(folder, "curves", "Training curves: loss and mean absolute error over the epochs"),
            plot(folder, "numbers", f"Predicted over true numbers of {images}, and the histogram of the errors"),
        ]
    )


def number_table(metrics: Mapping[str, Any], images: str) -> Markup:
    """Metrics with their intervals."""
    rows = [
        {"metric": name, "value": within(metrics[key], metrics["intervals"].get(key))}
        for key, name in NUMBER_METRICS.items()
    ]
    return table(f"Metrics of {images}", {"metric": reads("metric"), "value (95 % interval)": reads("value")}, rows)


def number_evaluation_html(evaluation: dict[str, Any], plots: Path) -> str:
    """A page with metrics, plot and the largest errors; it needs no network and no scripts.

    Args:
        evaluation: content of ``evaluation.json``.
        plots: folder of the PNG files; those that it lacks are left out.
    """
    images = images_of(evaluation["split"], evaluation["images"])
    columns = {name: reads(name) for name in ("path", "label", "predicted")}
    origin = {key: evaluation[key] for key in ("bundle", "graph_sha256", "data", "data_fingerprint")}
    sections = [
        ("metrics", "Metrics", number_table(evaluation, images)),
        ("plots", "Plots", number_plots(images, plots)),
        ("errors", "Errors", table("The largest errors", columns, evaluation["worst"])),
        ("provenance", "Provenance", facts(origin)),
    ]
    graph = f"{evaluation['precision']} on {evaluation['provider']}"
    sentences = [f"What the graph in {graph} says of {evaluation['number']} on {images} of {evaluation['data']}."]
    title = f"Evaluation of {Path(evaluation['bundle']).name}"
    return page(title, sentences, headline(number_headline(evaluation, images)), sections)
