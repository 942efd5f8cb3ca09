"""Latency and throughput over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.reporting.look import BLUE, GREEN, LOOK, ORANGE, PINK, save


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
        save(figure, path)


def _over_batch_size(axes: Axes, sizes: list[int], title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("batch size (images)")
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 1.6)
