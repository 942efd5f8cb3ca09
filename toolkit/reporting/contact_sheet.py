"""The images of a split that the classifier got most wrong, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from toolkit.reporting.plot_style import GREY, shortened
from toolkit.reporting.predictions import Predictions, worst

COLUMNS = 6
TILE = 160
"""Pixels of a tile's side."""


def contact_sheet(predictions: Predictions, images: Sequence[Callable[[], Image.Image]], split: str = "test") -> Figure:
    """Up to 24 errors, the highest loss first; where all is right, the images that came nearest to an error.

    Args:
        predictions: of a split.
        images: opens each of its images, in the same order.
        split: its name.
    """
    chosen, title = worst(predictions, split)
    rows = max(1, math.ceil(len(chosen) / COLUMNS))
    figure = Figure(figsize=(COLUMNS * 1.9, rows * 2.45 + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    tiles = np.ravel(figure.subplots(rows, COLUMNS, squeeze=False))
    for axes in tiles:
        axes.axis("off")
    for axes, index in zip(tiles, chosen, strict=False):
        axes.imshow(letterboxed(images[index]()))
        said = f"said {shortened(predictions.predicted[index], 13)}, {predictions.probability[index]:.0%}"
        axes.set_title(f"is {shortened(predictions.labels[index], 17)}\n{said}", fontsize=9, loc="left")
        name = shortened(PurePath(predictions.paths[index]).name, 24)
        axes.text(0, TILE + 6, name, fontsize=7, color=GREY, va="top")
    return figure


def letterboxed(image: Image.Image) -> Image.Image:
    """The whole image on a grey square; pixels of small images stay visible."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    square.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square
