"""Latency under load: what the server scenario measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from toolkit.reporting.plot_style import BLUE, GREY, LOOK, ORANGE, plain_log, save


def plot_server(latency: dict[str, Any], path: Path) -> None:
    """Draw p50 and p99 in ms over the offered images per second, the target, and the highest rate that holds it.

    Args:
        latency: content of ``latency.json`` with ``scenarios.server``.
        path: of the PNG file.
    """
    server = latency["scenarios"]["server"]
    measured = sorted(server["points"], key=lambda point: point["offered_ips"])
    target, holds = server.get("target_p99_ms"), server.get("rate_that_holds_ips")
    offered = [point["offered_ips"] for point in measured]
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.set_yscale("log")
        for name, key, color in (("p99", "p99_ms", BLUE), ("p50", "p50_ms", ORANGE)):
            values = [_drawn(point[key]) for point in measured]
            axes.plot(offered, values, color=color, marker="o", label=name)
        saturated = [point for point in measured if point.get("saturated")]
        if saturated:
            at, high = [point["offered_ips"] for point in saturated], [_drawn(point["p99_ms"]) for point in saturated]
            axes.plot(at, high, "o", color="white", markeredgecolor=BLUE, label="p99, saturated: the queue grows")
        everything = [point[key] for point in measured for key in ("p50_ms", "p99_ms")] + [target]
        known = [value for value in everything if value] or [1.0]
        low, high_end = min(known) / 1.3, max(known) * 1.4
        axes.set_ylim(low, high_end)
        axes.set_xlim(0, max(offered) * 1.05)
        plain_log(axes.yaxis, low, high_end)
        beside: Any = {"textcoords": "offset points", "fontsize": 9, "color": GREY}
        if target:
            axes.axhline(target, color=GREY, linewidth=1.2, linestyle="--")
            axes.annotate(f"target: p99 ≤ {target:g} ms", (0, target), xytext=(5, 4), **beside)
        if holds:
            axes.axvline(holds, color=GREY, linewidth=1, linestyle=":")
            axes.annotate(f"{holds:,.4g} images/s hold it", (holds, low), xytext=(-5, 6), ha="right", **beside)
        axes.set_title(f"{server.get('precision', '')} on {server.get('provider', '')}: latency under load")
        axes.set_xlabel("offered load (images / s)")
        axes.set_ylabel("ms")
        figure.legend(loc="outside lower left", ncols=3, fontsize=9)
        save(figure, path)


def _drawn(milliseconds: float | None) -> float:
    """A metric, or a gap where no request that arrived in the window was served."""
    return math.nan if milliseconds is None else milliseconds
