"""The test images that the classifier got most wrong, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from toolkit.reporting.plot_style import GREY, shortened
from toolkit.reporting.predictions import Predictions

TILES = 24
COLUMNS = 6
TILE = 160
"""Pixels of a tile's side."""


def contact_sheet(predictions: Predictions, images: Sequence[Callable[[], Image.Image]]) -> Figure:
    """Up to 24 errors, the highest loss first; where all is right, the images that came nearest to an error.

    Args:
        predictions: of the test split.
        images: opens each of its images, in the same order.
    """
    chosen, title = worst(predictions)
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


def worst(predictions: Predictions) -> tuple[list[int], str]:
    """Places of the images to show, worst first, and what they are in words."""
    order = np.argsort(predictions.label_probability, kind="stable")
    wrong = [int(index) for index in order if predictions.predicted[index] != predictions.labels[index]]
    total = len(order)
    if not wrong:
        return order[:TILES].tolist(), f"no errors on {total:,} test images; these came nearest to one"
    shown = "" if len(wrong) <= TILES else f", the worst {TILES}"
    return wrong[:TILES], f"{len(wrong):,} errors on {total:,} test images{shown}"


def letterboxed(image: Image.Image) -> Image.Image:
    """The whole image on a grey square; pixels of small images stay visible."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    square.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square
