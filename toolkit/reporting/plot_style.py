"""How metrics look: colour-blind-safe, without clutter, the number that matters written on."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from toolkit.files import write_bytes
from toolkit.text import for_terminal

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
"""From Okabe and Ito's colour-blind-safe palette (2008)."""
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#D55E00", "#F0E442", "#332288", "#999999", "#882255")
LINES = (BLUE, ORANGE, GREEN, PINK, "#D55E00", "#332288", "#56B4E9", "#882255")
"""Those of the palette that a thin line on white can have."""
MARKERS = "osD^vPX"
GREY = "#666666"
HALO = (withStroke(linewidth=2.5, foreground="white"),)
"""Path effects of a text that lines may cross."""
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
    "text.parse_math": False,
}
"""Settings for ``matplotlib.rc_context``; names with dollars are no formulas."""


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes don't depend on the library's version."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # letters that the font has not
        figure.savefig(content, format="png", metadata={"Software": None})
    write_bytes(path, content.getvalue())


def shortened(text: str, length: int) -> str:
    """A name on one line, cut to so many characters."""
    text = for_terminal(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def with_interval(value: float, bounds: list[float] | None, digits: int = 3) -> str:
    """A metric with its 95 % interval, where there is one."""
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text} ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})"


def styles(keys: Iterable[Any]) -> dict[Any, tuple[str, str]]:
    """A colour and a marker for each distinct key; both repeat, but no pair does among 56."""
    return dict(zip(dict.fromkeys(keys), zip(cycle(LINES), cycle(MARKERS), strict=False), strict=False))


def plain_log(axis: Axis, low: float, high: float) -> None:
    """A logarithmic axis over ``low`` to ``high`` whose ticks are plain numbers, some three to ten of them."""
    decades = math.log10(high / low)
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,), numticks=12))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(ticker.NullLocator())


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places near the values, in their order, of which no two lie nearer to each other than ``gap``."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    groups: list[tuple[float, list[int]]] = []
    for index in order:
        middle, members = values[index], [index]
        while groups and middle - groups[-1][0] < gap * (len(members) + len(groups[-1][1])) / 2:
            before, others = groups.pop()
            middle = (middle * len(members) + before * len(others)) / (len(members) + len(others))
            members = others + members
        groups.append((middle, members))
    places = [0.0] * len(values)
    for middle, members in groups:
        for place, index in enumerate(members):
            places[index] = middle + gap * (place - (len(members) - 1) / 2)
    return places
