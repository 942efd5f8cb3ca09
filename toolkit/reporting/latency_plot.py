"""The plots of ``latency.json``; latency and throughput over the batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.reporting.limits import points
from toolkit.reporting.plot_style import HALO, LOOK, apart, plain_log, save, styles
from toolkit.reporting.roofline_plot import plot_roofline
from toolkit.reporting.server_plot import plot_server

DODGE = 0.008
"""Between the whiskers of two engines, as a share of the plot's width."""
LEFT, RIGHT = 0.75, 1.6
"""How far the plot reaches beyond the smallest and the largest batch size."""


def plot_measured(latency: dict[str, Any], folder: Path) -> None:
    """Draw ``latency.png``, and ``roofline.png`` and ``server.png`` where ``latency.json`` has what they show."""
    folder.mkdir(exist_ok=True)
    plot_latency(latency["rows"], folder / "latency.png")
    wanted = {
        "roofline": (plot_roofline, bool(points(latency))),
        "server": (plot_server, bool(((latency.get("scenarios") or {}).get("server") or {}).get("points"))),
    }
    for name, (draw, has_data) in wanted.items():
        path = folder / f"{name}.png"
        if has_data:
            draw(latency, path)
        else:
            path.unlink(missing_ok=True)


def plot_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw p50 latency with a whisker to p99 in ms, and images per second, over the batch size, a line an engine."""
    with mpl.rc_context(LOOK):
        engines = styles(_engine(row) for row in rows)
        legend_rows = math.ceil(len(engines) / 2)
        figure = Figure(figsize=(7.2, 6.6 + 0.2 * legend_rows), layout="constrained")
        latency, throughput = figure.subplots(2, 1)
        sizes = sorted({row["batch_size"] for row in rows})
        span = math.log2(sizes[-1] * RIGHT / (sizes[0] * LEFT))
        for place, (engine, (color, marker)) in enumerate(engines.items()):
            mine = [row for row in rows if _engine(row) == engine]
            shift = 2 ** (span * DODGE * (place - (len(engines) - 1) / 2))
            p50 = [row["p50_ms"] for row in mine]
            look: Any = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.4, "label": " ".join(engine)}
            latency.errorbar(
                [row["batch_size"] * shift for row in mine],
                p50,
                yerr=[[0] * len(mine), [max(0, row["p99_ms"] - row["p50_ms"]) for row in mine]],
                capsize=2.5,
                elinewidth=1,
                **look,
            )
            throughput.plot([row["batch_size"] for row in mine], [row["throughput_ips"] for row in mine], **look)
        _over_batch_size(latency, sizes, "latency of a batch: p50, whisker to p99", "ms")
        low, high = min(row["p50_ms"] for row in rows) / 1.4, max(row["p99_ms"] for row in rows) * 1.4
        latency.set_yscale("log")
        latency.set_ylim(low, high)
        plain_log(latency.yaxis, low, high)
        _over_batch_size(throughput, sizes, "throughput", "images / s")
        most = max(row["throughput_ips"] for row in rows)
        throughput.set_ylim(0, most * 1.12)
        throughput.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        beside = 2 ** (span * (DODGE * len(engines) / 2 + 0.01))
        for size in sizes:
            at_size = [row for row in rows if row["batch_size"] == size]
            logs = [math.log(row["p50_ms"]) for row in at_size]
            places = [math.exp(each) for each in apart(logs, 0.058 * math.log(high / low))]
            _write(latency, at_size, places, "p50_ms", engines, beside)
            rates = [row["throughput_ips"] for row in at_size]
            _write(throughput, at_size, apart(rates, 0.065 * most), "throughput_ips", engines, beside)
        figure.legend(*latency.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=9)
        save(figure, path)


def _engine(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["engine"], row["precision"], row["provider"]


def _write(
    axes: Axes, rows: list[dict[str, Any]], places: list[float], key: str, engines: dict[Any, Any], beside: float
) -> None:
    """The metrics of a batch size, in the colours of their lines, beside the points and clear of each other."""
    for row, place in zip(rows, places, strict=True):
        text = f"{row[key]:,.0f}" if row[key] >= 100 else f"{row[key]:.3g}"
        color, _ = engines[_engine(row)]
        axes.text(row["batch_size"] * beside, place, text, color=color, fontsize=8, va="center", path_effects=HALO)


def _over_batch_size(axes: Axes, sizes: list[int], title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("batch size (images)")
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(sizes[0] * LEFT, sizes[-1] * RIGHT)
