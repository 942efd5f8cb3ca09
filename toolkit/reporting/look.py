"""How figures look: colour-blind-safe, without clutter, the number that matters written on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
"""From Okabe and Ito's colour-blind-safe palette (2008)."""
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#D55E00", "#F0E442", "#332288", "#999999", "#882255")
GREY = "#666666"
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
    figure.savefig(path, metadata={"Software": None})


def shortened(text: str, length: int) -> str:
    """A name cut to so many characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def with_interval(value: float, bounds: list[float] | None, digits: int = 3) -> str:
    """A figure with its 95 % interval, where there is one."""
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text} ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})"
