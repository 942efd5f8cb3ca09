"""A sweep's metric over its trials, and by each of the keys that it searched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolkit.reporting.plot_style import BLUE, GREY, LOOK, ORANGE, plain_log, save, shortened

COLUMNS = 3
"""Panels beside each other."""
LONGEST = 26


def plot_sweep(content: dict[str, Any], path: Path) -> None:
    """Draw the trials: complete ones as dots, pruned ones as crosses where they stood, the best one ringed.

    Args:
        content: of ``sweep.json``.
        path: PNG file to write.
    """
    trials = [trial for trial in content["trials"] if trial["value"] is not None]
    keys = list(content["search"])
    rows = math.ceil(len(keys) / COLUMNS)
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(9.6, 3.2 + 2.7 * rows), layout="constrained")
        grid = figure.add_gridspec(1 + rows, min(COLUMNS, len(keys)), height_ratios=[1.2] + [1] * rows)
        top = figure.add_subplot(grid[0, :])
        _dots(top, [trial["number"] for trial in trials], trials, content)
        _best_so_far(top, trials, content)
        best = next(trial for trial in trials if trial["number"] == content["best"])
        top.set_title(f"best of {len(content['trials'])} trials: {content['select_by']} {best['value']:.4g}")
        top.set_xlabel("trial")
        top.xaxis.set_major_locator(MaxNLocator(integer=True))
        top.legend(loc="best", fontsize=8)
        for place, key in enumerate(keys):
            axes = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS], sharey=top)
            _by_key(axes, key, trials, content)
        save(figure, path)


def _dots(axes: Axes, places: list[float], trials: list[dict[str, Any]], content: dict[str, Any]) -> None:
    for state, marker, color in (("complete", "o", BLUE), ("pruned", "x", GREY)):
        mine = [index for index, trial in enumerate(trials) if trial["state"] == state]
        if mine:
            values = [trials[index]["value"] for index in mine]
            axes.scatter([places[index] for index in mine], values, s=22, c=color, marker=marker, label=state, zorder=3)
    best = next(index for index, trial in enumerate(trials) if trial["number"] == content["best"])
    axes.scatter([places[best]], [trials[best]["value"]], s=110, c="none", edgecolors=ORANGE, linewidths=2, zorder=4)
    axes.set_ylabel(f"{content['select_by']} (validation)", fontsize=9)


def _best_so_far(axes: Axes, trials: list[dict[str, Any]], content: dict[str, Any]) -> None:
    complete = [trial for trial in trials if trial["state"] == "complete"]
    better = min if content["smaller_is_better"] else max
    best = [better(trial["value"] for trial in complete[: index + 1]) for index in range(len(complete))]
    axes.step([trial["number"] for trial in complete], best, ORANGE, where="post", label="best so far", linewidth=1.5)


def _by_key(axes: Axes, key: str, trials: list[dict[str, Any]], content: dict[str, Any]) -> None:
    space, values = content["search"][key], [trial["params"][key] for trial in trials]
    if space["kind"] == "range":
        if space["log"]:
            axes.set_xscale("log")
            axes.set_xlim(space["low"] / 1.2, space["high"] * 1.2)
            plain_log(axes.xaxis, space["low"], space["high"])
        places = [float(value) for value in values]
    else:
        names = space["values"]
        places = [float(names.index(value)) for value in values]
        axes.set_xticks(range(len(names)), [shortened(str(name), LONGEST // max(1, len(names) // 3)) for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
    _dots(axes, places, trials, content)
    axes.set_xlabel(shortened(key, 40), fontsize=9)
