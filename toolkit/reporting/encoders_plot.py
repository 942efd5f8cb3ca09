"""Accuracy of encoders against what an image costs: a point each, intervals as error bars, names that don't overlap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import ScalarFormatter

from toolkit.reporting.plot_style import GREY, LOOK, plain_log, save, shortened, styles
from toolkit.reporting.point_names import Ends, name_points

NAME = 34
"""Longest name of an encoder in the plot, in characters."""


def plot_encoders(content: dict[str, Any], path: Path) -> None:
    """Draw every encoder's validation accuracy against its latency, and the line of those that none is better than.

    Args:
        content: of ``encoders_compare.json``.
        path: PNG file to write.
    """
    with mpl.rc_context(LOOK):
        save(encoders_figure(content)[0], path)


def encoders_figure(content: dict[str, Any]) -> tuple[Figure, list[Annotation]]:
    """The plot that :func:`plot_encoders` writes, and the names in it, in the order of the encoders."""
    encoders = content["encoders"]
    figure = Figure(figsize=(8.0, 4.8 + 0.12 * len(encoders)), layout="constrained")
    FigureCanvasAgg(figure)  # measures texts
    axes = figure.subplots()
    names = _names([each["encoder"] for each in encoders])
    looks = styles(names)
    for name, each in zip(names, encoders, strict=True):
        x, y = each["latency"]["p50_ms"], 100 * each["accuracy"]
        (left, right), (low, high) = _ends(each)
        color, marker = looks[name]
        axes.errorbar(
            [x],
            [y],
            yerr=[[y - low], [high - y]],
            xerr=[[max(0.0, x - left)], [max(0.0, right - x)]],
            color=color,
            marker=marker,
            markersize=7,
            capsize=3,
            elinewidth=1.1,
        )
    _frame(axes, encoders, content)
    line = _frontier(encoders)
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=GREY, linestyle="--", linewidth=1, zorder=0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes stay where they are now
    points = [(each["latency"]["p50_ms"], 100 * each["accuracy"]) for each in encoders]
    texts = [f"{name}\n{y:.1f} %, {_time(x)} ms" for name, (x, y) in zip(names, points, strict=True)]
    colors, ends = [looks[name][0] for name in names], [_ends(each) for each in encoders]
    return figure, name_points(axes, points, texts, colors, ends, line)


def _ends(encoder: dict[str, Any]) -> Ends:
    """The interval of the latency in ms, and that of the accuracy in %."""
    latency = encoder["latency"]
    left, right = latency["intervals"].get("p50_ms") or (latency["p50_ms"], latency["p50_ms"])
    low, high = encoder["interval"]
    return (left, right), (100 * low, 100 * high)


def _names(given: Sequence[str]) -> list[str]:
    """Short names: a folder's own, unless two are called the same."""
    last = [PurePath(name).name or name for name in given]
    return [shortened(name if last.count(own) > 1 else own, NAME) for name, own in zip(given, last, strict=True)]


def _frame(axes: Axes, encoders: Sequence[dict[str, Any]], content: dict[str, Any]) -> None:
    times = [end for each in encoders for end in _ends(each)[0]]
    shares = [end for each in encoders for end in _ends(each)[1]]
    low, high = min(times) / 1.6, max(times) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_log(axes.xaxis, low, high)
    reach = max(max(shares) - min(shares), 2.0)
    axes.set_ylim(min(shares) - 0.12 * reach, max(shares) + 0.12 * reach)
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    height, width = content["image_shape"]
    threads = encoders[0]["latency"]["threads"]
    axes.set_xlabel(
        f"p50 ms an image of {width} x {height} pixels: decoded image to probabilities, fp32 graph, batch 1, "
        f"{threads} thread{'s' * (threads != 1)}"
    )
    images = content["images"]
    axes.set_ylabel("validation accuracy (%)")
    best = encoders[0]
    axes.set_title(
        f"{shortened(PurePath(best['encoder']).name or best['encoder'], 40)} is the best on validation: "
        f"{best['accuracy']:.1%} by linear probe\n"
    )
    axes.text(
        0,
        1.015,
        f"{images['train']:,} training and {images['validation']:,} validation images, {len(content['classes'])} "
        "classes; 95 % intervals; dashed: none is both faster and more accurate",
        transform=axes.transAxes,
        color=GREY,
        fontsize=8.5,
    )


def _frontier(encoders: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Milliseconds and percent of the encoders that no other one beats in both, the fastest first."""
    best, line = -1.0, list[tuple[float, float]]()
    for each in sorted(encoders, key=lambda each: (each["latency"]["p50_ms"], -each["accuracy"])):
        if each["accuracy"] > best:
            best = each["accuracy"]
            line.append((each["latency"]["p50_ms"], 100 * best))
    return line


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
