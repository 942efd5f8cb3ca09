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
from toolkit.reporting.look import GREY, LOOK, apart, plain_log, save, styles


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
    left, right = min(intensities) / 4, max(intensities) * 4
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
        axes.set_xlabel("FLOP a byte of weights and activations")
        axes.set_ylabel("GFLOP/s")
        plain_log(axes.xaxis, left, right)
        plain_log(axes.yaxis, bottom, top)
        _draw_ceilings(axes, highest, copy)
        _draw_points(axes, found)
        count = len({_engine(each) for each in found})
        figure.legend(loc="outside lower left", ncols=2 if count > 1 else 1, fontsize=9)
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
    gap = 0.05 * math.log(top / bottom)
    logs = apart([math.log(each.gflops) + gap / 2 for each in highest], gap)
    dashes = dict(zip(dict.fromkeys(each.library for each in highest), ("-", "--", ":"), strict=False))
    for each, place in zip(highest, logs, strict=True):
        ridge = each.gflops / (copy * 2**30 / 1e9) if copy else left
        axes.plot(
            [ridge, right], [each.gflops] * 2, color=GREY, linewidth=1.2, linestyle=dashes.get(each.library, "-.")
        )
        text = f"{each.library} {each.precision}, batch {each.batch_size}: {each.gflops:,.3g} GFLOP/s"
        axes.text(right, math.exp(place), text, ha="right", va="center", fontsize=8, color=GREY)
    if copy:
        bandwidth = copy * 2**30 / 1e9
        knee = max((each.gflops for each in highest), default=top)
        axes.plot([left, knee / bandwidth], [left * bandwidth, knee], color=GREY, linewidth=1.2)
        low = max(left, bottom / bandwidth)
        middle = math.sqrt(low * min(right, knee / bandwidth)) if knee / bandwidth > low else None
        if middle:
            axes.annotate(
                f"memory copy: {copy:,.3g} GiB/s",
                (middle, middle * bandwidth),
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=GREY,
            )


def _draw_points(axes: Axes, found: Sequence[Point]) -> None:
    """The points; those of one intensity have their labels clear of each other."""
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
            label=" ".join(engine),
        )
    for intensity in dict.fromkeys(each.intensity for each in found):
        mine = [each for each in found if each.intensity == intensity]
        places = apart([math.log(each.gflops) for each in mine], 0.045 * math.log(top / bottom))
        for each, place in zip(mine, places, strict=True):
            reached = each.row.get("share_of_ceiling")
            text = f"batch {each.row['batch_size']}" + ("" if reached is None else f": {reached:.0%}")
            axes.annotate(
                text,
                (intensity, math.exp(place)),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=looks[_engine(each)][0],
            )


def _engine(point: Point) -> tuple[str, str, str]:
    return point.row["engine"], point.row["precision"], point.row["provider"]
