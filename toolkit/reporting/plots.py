"""Figures in one look: colour-blind-safe, labelled with units, the number that matters written on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
"""From Okabe and Ito's colour-blind-safe palette (2008)."""
LOOK: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 140,
}


def plot_run(run: Path) -> None:
    """Draw ``plots/curves.png`` and ``plots/confusion_matrix.png`` of a finished run."""
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    (run / "plots").mkdir(exist_ok=True)
    with mpl.rc_context(LOOK):
        _save(_curves(history, summary), run / "plots" / "curves.png")
        matrix = np.array(summary["confusion_matrix"])
        _save(_confusion_matrix(matrix, summary["classes"]), run / "plots" / "confusion_matrix.png")


def plot_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw p50 latency with p90 and p99 marks over the batch size, a line an engine."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        latency, throughput = figure.subplots(1, 2)
        engines = list(dict.fromkeys((row["engine"], row["precision"], row["provider"]) for row in rows))
        for engine, color in zip(engines, (BLUE, ORANGE, GREEN, PINK), strict=False):
            mine = [row for row in rows if (row["engine"], row["precision"], row["provider"]) == engine]
            sizes = [row["batch_size"] for row in mine]
            p50 = [row["p50_ms"] for row in mine]
            beyond = [[0] * len(mine), [row["p99_ms"] - row["p50_ms"] for row in mine]]
            label = " ".join(engine)
            latency.errorbar(sizes, p50, yerr=beyond, marker="o", capsize=3, color=color, label=label)
            throughput.plot(sizes, [row["throughput_ips"] for row in mine], marker="o", color=color, label=label)
            for size, milliseconds in zip(sizes, p50, strict=True):
                place = {"textcoords": "offset points", "xytext": (7, -3), "color": color, "fontsize": 9}
                latency.annotate(f"{milliseconds:.3g}", (size, milliseconds), **place)
        sizes = sorted({row["batch_size"] for row in rows})
        _over_batch_size(latency, sizes, "latency of a batch: p50, whisker to p99", "ms")
        latency.set_yscale("log")
        latency.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        latency.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        latency.yaxis.set_minor_locator(ticker.NullLocator())
        _over_batch_size(throughput, sizes, "throughput", "images / s")
        throughput.set_ylim(bottom=0)
        latency.legend()
        _save(figure, path)


def _over_batch_size(axes: Axes, sizes: list[int], title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("batch size (images)")
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 1.6)


def _curves(history: list[dict[str, Any]], summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    epochs = [entry for entry in history if "epoch_seconds" in entry]
    for axes, name, unit in zip(panels, ("loss", "accuracy"), ("cross-entropy (nats)", "share of images"), strict=True):
        for split, color in (("train", ORANGE), ("validation", BLUE)):
            mine = [(entry["epoch"], entry[name]) for entry in epochs if entry["split"] == split]
            axes.plot(*zip(*mine, strict=True), marker="o", markersize=3, color=color, label=split)
        axes.axvline(summary["best_epoch"], color="#666666", linewidth=1, linestyle=":")
        axes.set_title(name)
        axes.set_xlabel("epoch (dotted: the one that was kept)")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    test = summary["test"]
    panels[1].set_title(f"accuracy: {test['accuracy']:.1%} on {test['images']} test images")
    panels[0].legend()
    return figure


def _confusion_matrix(matrix: np.ndarray, labels: list[str]) -> Figure:
    side = min(14.0, 2.6 + 0.45 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_title(f"test: {np.trace(matrix)} of {matrix.sum()} images right")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_yticks(range(len(labels)), labels)
    if len(labels) <= 25:
        for row, column in np.ndindex(matrix.shape):
            if matrix[row, column]:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
