"""The roofline: how near each engine comes to what the machine can compute and move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.reporting.limits import Ceiling, Point, ceilings, points
from toolkit.reporting.plot_style import GREY, HALO, LOOK, apart, plain_log, save, styles

LABEL = (0.07, 0.04)
"""Width and height of a point's label, as shares of the plot's."""


def plot_roofline(latency: dict[str, Any], path: Path) -> None:
    """Draw GFLOP/s over FLOP a byte: the ceilings as labelled lines, each row as a point with its share of its ceiling.

    Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009).

    Args:
        latency: content of ``latency.json`` with ``limits``.
        path: of the PNG file.
    """
    found, limits = points(latency), latency["limits"]
    highest = _highest(list(ceilings(limits)))
    copy = (limits.get("ceilings") or {}).get("copy_gib_s")
    intensities, rates = [each.intensity for each in found], [each.gflops for each in found]
    ridges = [each.gflops / bandwidth(copy) for each in highest] if copy else []
    left, right = min([each / 3 for each in intensities] + [each / 2 for each in ridges]), max(intensities) * 14
    top = max(rates + [each.gflops for each in highest]) * 1.6
    bottom = min(rates) / 2
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        axes = figure.subplots()
        axes.set_title("what each engine reaches of this machine")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_xlabel("FLOP a byte of weights, input and output")
        axes.set_ylabel("GFLOP/s")
        plain_log(axes.xaxis, left, right)
        plain_log(axes.yaxis, bottom, top)
        _draw_ceilings(axes, highest, copy)
        _draw_points(axes, found)
        count = len({_engine(each) for each in found})
        shares = any("share_of_ceiling" in each.row for each in found)
        title = "at a point: its batch size" + ", and its share of its ceiling" * shares
        legend = figure.legend(
            loc="outside lower left", ncols=2 if count > 1 else 1, fontsize=9, title=title, title_fontsize=9
        )
        legend.set_alignment("left")
        save(figure, path)


def _highest(measured: Sequence[Ceiling]) -> list[Ceiling]:
    """The highest ceiling of each library and precision."""
    best: dict[tuple[str, str], Ceiling] = {}
    for each in measured:
        key = each.library, each.precision
        if key not in best or each.gflops > best[key].gflops:
            best[key] = each
    return list(best.values())


def _draw_ceilings(axes: Axes, highest: Sequence[Ceiling], copy: float | None) -> None:
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    gap = 0.042 * math.log(top / bottom)
    places = apart([math.log(each.gflops) for each in highest], gap)
    dashes = dict(zip(dict.fromkeys(each.library for each in highest), ("-", "--", ":"), strict=False))
    for each, place in zip(highest, places, strict=True):
        ridge = each.gflops / bandwidth(copy) if copy else left
        axes.plot(
            [ridge, right], [each.gflops] * 2, color=GREY, linewidth=1.2, linestyle=dashes.get(each.library, "-.")
        )
        text = f"{each.library} {each.precision}: {each.gflops:,.3g} GFLOP/s"
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        _write(axes, right, math.exp(place), text, GREY, {"xytext": (-4, 0), "ha": "right", "bbox": behind})
    if copy:
        knee = max((each.gflops for each in highest), default=top)
        start = max(left, bottom / bandwidth(copy))
        axes.plot([start, knee / bandwidth(copy)], [start * bandwidth(copy), knee], color=GREY, linewidth=1.2)
        beside: Any = {"xytext": (8, 4)}
        _write(axes, start, start * bandwidth(copy), f"memory copy: {copy:,.3g} GiB/s", GREY, beside)


def _draw_points(axes: Axes, found: Sequence[Point]) -> None:
    """The points, each with its batch size and the share of its ceiling that it reaches."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    looks = styles(_engine(each) for each in found)
    for engine, (color, marker) in looks.items():
        mine = [each for each in found if _engine(each) == engine]
        axes.plot(
            [each.intensity for each in mine],
            [each.gflops for each in mine],
            color=color,
            marker=marker,
            linewidth=0.8,
            zorder=4,
            label=" ".join(engine),
        )
    marks = [
        (
            math.log(each.intensity / left) / math.log(right / left),
            math.log(each.gflops / bottom) / math.log(top / bottom),
        )
        for each in found
    ]
    for each, (across, up) in zip(found, label_places(marks), strict=True):
        reached = each.row.get("share_of_ceiling")
        text = f"{each.row['batch_size']}" + ("" if reached is None else f": {reached:.0%}")
        at, height = left * (right / left) ** across, bottom * (top / bottom) ** up
        _write(axes, at, height, text, looks[_engine(each)][0], {"xytext": (0, 0), "ha": "center"})


def label_places(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centres of the points' labels: the nearest places where they cover neither each other nor a point.

    Args:
        marks: the points, as shares of the plot's width and height; so are the places.
    """
    wide, high = LABEL
    beside, above = wide / 2 + 0.012, high / 2 + 0.014
    offsets = [(beside, 0.0), (0.0, above), (0.0, -above), (-beside, 0.0)]
    offsets += [(side * beside, step * high) for step in (0.35, -0.35, 0.7, -0.7, 1.4, -1.4) for side in (1, -1)]
    places: list[tuple[float, float]] = []
    for across, up in marks:

        def covered(offset: tuple[float, float], across: float = across, up: float = up) -> int:
            x, y = across + offset[0], up + offset[1]
            labels = sum(abs(x - other) < wide and abs(y - its) < high for other, its in places)
            points_under = sum(
                abs(x - other) < wide / 2 + 0.008 and abs(y - its) < high / 2 + 0.008 for other, its in marks
            )
            return labels * 2 + points_under

        nearest = min(offsets, key=covered)
        places.append((across + nearest[0], up + nearest[1]))
    return places


def _write(axes: Axes, at: float, height: float, text: str, color: str, place: dict[str, Any]) -> None:
    axes.annotate(
        text,
        (at, height),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color,
        path_effects=HALO,
        **place,
    )


def bandwidth(copy: float) -> float:
    """GB/s of GiB/s: what FLOP a byte is multiplied by to give GFLOP/s."""
    return copy * 2**30 / 1e9


def _engine(point: Point) -> tuple[str, str, str]:
    return point.row["engine"], point.row["precision"], point.row["provider"]
