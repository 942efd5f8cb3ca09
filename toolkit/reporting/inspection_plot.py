"""An image on its way into an encoder: a panel for each step of the processor, and attention laid over the last."""

# H height, W width in pixels

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from toolkit.reporting.plot_style import GREY, LOOK, ORANGE, save, shortened

PANEL = 2.9
"""Inches of a panel's side."""
HEADER, BELOW = 0.66, 0.45
"""Inches above and below the panels."""
SHOWN = 1024
"""Most pixels of a panel's side; larger images are shown smaller."""
COLORS = "inferno"
FAINT, STRONG = 0.15, 0.8
"""Opacity of the least and the most attention."""

NARROW = 0.25
"""Least reach of the colours around the mean, so that attention that is all but even looks so."""


@dataclass(frozen=True)
class Panel:
    """A step."""

    title: str
    caption: str
    pixels: npt.NDArray[np.uint8]
    """[H, W, 3]."""
    window: tuple[int, int, int, int] | None = None
    """What is cut out of it: left, top, width and height in pixels."""


@dataclass(frozen=True)
class Overlay:
    """Attention over the last panel."""

    shares: npt.NDArray[np.float64]
    """Of each patch [rows, columns]."""
    caption: str


def plot_inspection(panels: Sequence[Panel], overlay: Overlay | None, title: str, caption: str, path: Path) -> None:
    """Draw the panels in a row, the last of them again with attention over it.

    Args:
        panels: the steps, in their order.
        overlay: None where there is no attention to be shown.
        title: of the picture.
        caption: a line below the title.
        path: PNG file to write.
    """
    with mpl.rc_context(LOOK | {"axes.grid": False}):
        save(inspection_figure(panels, overlay, title, caption), path)


def inspection_figure(panels: Sequence[Panel], overlay: Overlay | None, title: str, caption: str) -> Figure:
    """The picture that :func:`plot_inspection` writes."""
    columns = len(panels) + (overlay is not None)
    height = HEADER + PANEL + BELOW
    figure = Figure(figsize=(columns * PANEL, height))
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADER / height))
    figure.text(0.005, 1 - 0.1 / height, shortened(title, 26 * columns), va="top", fontsize=12, fontweight="bold")
    figure.text(0.005, 1 - 0.36 / height, shortened(caption, 42 * columns), va="top", fontsize=9, color=GREY)
    places: Sequence[Axes] = np.ravel(figure.subplots(1, columns, squeeze=False)).tolist()
    for place, panel in zip(places, panels, strict=False):
        _show(place, panel)
    if overlay is not None:
        _lay_over(figure, places[-1], panels[-1].pixels, overlay)
    return figure


def _show(axes: Axes, panel: Panel) -> None:
    height, width = panel.pixels.shape[:2]
    axes.imshow(_for_panel(panel.pixels), extent=(0, width, height, 0), interpolation="nearest")
    if panel.window is not None:
        left, top, wide, high = panel.window
        frame: dict[str, Any] = {"fill": False, "clip_on": False}
        axes.add_patch(Rectangle((left, top), wide, high, edgecolor="white", linewidth=3, **frame))
        axes.add_patch(Rectangle((left, top), wide, high, edgecolor=ORANGE, linewidth=1.6, **frame))
    _label(axes, panel.title, panel.caption)


def _lay_over(figure: Figure, axes: Axes, pixels: npt.NDArray[np.uint8], overlay: Overlay) -> None:
    """Attention in multiples of the mean patch's, more opaque the more there is, over the image in grey."""
    height, width = pixels.shape[:2]
    place: Any = {"extent": (0, width, height, 0)}
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", **place)
    relative = overlay.shares / overlay.shares.mean()
    scale = Normalize(min(1 - NARROW, float(relative.min())), max(1 + NARROW, float(relative.max())))
    smooth = Image.fromarray(relative.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(smooth), scale.vmin, scale.vmax)
    opacity = FAINT + (STRONG - FAINT) * np.asarray(scale(values))
    axes.imshow(values, cmap=COLORS, norm=scale, alpha=opacity, interpolation="nearest", **place)
    bar = figure.colorbar(ScalarMappable(scale, COLORS), ax=axes, shrink=0.8, pad=0.02, anchor=(0.0, 1.0))
    bar.set_label("times the mean patch", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    _label(axes, "attention rollout", overlay.caption)


def _label(axes: Axes, title: str, caption: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(caption, fontsize=8.5, color=GREY, loc="left")
    axes.set_anchor("N")  # titles stand on one line
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _for_panel(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same, or made smaller where a figure could not show all of it."""
    height, width = pixels.shape[:2]
    if max(height, width) <= SHOWN:
        return pixels
    scale = SHOWN / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
