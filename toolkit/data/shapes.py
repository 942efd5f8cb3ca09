"""Drawings of several shapes at once, with the list of them: images that have several labels, or none."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from toolkit.data.source import open_data
from toolkit.files import staged_folder, write_bytes, write_json
from toolkit.recipe.data import ColumnsConfig, DataConfig

MANIFEST = "manifest.csv"
SHAPES = ("circle", "cross", "diamond", "ring", "square", "star", "triangle")
FREQUENCY = {"circle": 0.35, "cross": 0.2, "diamond": 0.2, "ring": 0.2, "square": 0.3, "star": 0.05, "triangle": 0.25}
"""How often a shape is drawn by itself; some come along with others."""
TOGETHER = (("ring", "circle", 0.5), ("diamond", "star", 0.4))
"""Where the first is drawn, the second often is too."""
APART = (("cross", "square"),)
"""Never in one image: the second gives way."""
IMAGES = 1400
SHARES = {"test": 0.25, "validation": 0.15}
SIDE, CELL, FINER = 64, 32, 4
"""Pixels of an image and of the square that each shape lies in, and the finer grid that outlines are drawn on."""
COLORS = ((220, 30, 35), (35, 165, 60), (35, 75, 215), (235, 210, 40), (140, 45, 170), (50, 205, 215), (245, 135, 25))
GREYS = ((20, 20, 22), (128, 128, 130), (240, 240, 238))
ABOUT = {
    "name": "shapes",
    "source": "drawn by toolkit data shapes: up to four shapes an image, whose names are its labels",
    "licence": "CC0 1.0",
    "note": "some shapes come along with others, star is rare, cross and square never meet, some images show none",
}


def write_shapes(dest: Path, *, seed: int = 0, force: bool = False, images: int = IMAGES) -> dict[str, Any]:
    """Write ``images/`` and ``manifest.csv`` with ``path``, ``labels`` (names with ``|`` between them) and ``split``.

    Args:
        dest: folder to be.
        seed: of the drawings and the split; the same one gives the same bytes.
        force: replace a data set that is already there.
        images: how many.

    Returns:
        The content of ``dataset.json``.
    """
    rng = np.random.default_rng(seed)
    splits = _splits(images, rng)
    rows, together = io.StringIO(), Counter[str]()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["path", "labels", "split"])
    with staged_folder(dest, what="data set", marker="dataset.json", replace=force) as stage:
        (stage / "images").mkdir()
        for number, split in enumerate(splits):
            shapes = _shapes(rng)
            name = f"images/{number:04d}.png"
            _drawn(shapes, rng).save(stage / name, "PNG")
            table.writerow([name, "|".join(shapes), split])
            together[f"{len(shapes)}"] += 1
        write_bytes(stage / MANIFEST, rows.getvalue().encode())
        source = open_data(DataConfig(path=stage / MANIFEST, columns=ColumnsConfig(labels="labels")))
        content = ABOUT | {
            "classes": source.classes,
            "images": images,
            "counts": source.counts(),
            "labels_an_image": dict(sorted(together.items())),
            "split_seed": seed,
            "fingerprint": source.fingerprint,
        }
        write_json(stage / "dataset.json", content)
    return content


def _splits(images: int, rng: np.random.Generator) -> list[str]:
    held = [split for split, share in SHARES.items() for _ in range(round(share * images))]
    return [str(split) for split in rng.permutation([*held, *["train"] * (images - len(held))])]


def _shapes(rng: np.random.Generator) -> list[str]:
    """The shapes of an image, in order of their names, at most as many as there are squares to draw in."""
    there = {name for name in SHAPES if rng.random() < FREQUENCY[name]}
    for one, other, share in TOGETHER:
        if one in there and rng.random() < share:
            there.add(other)
    for one, other in APART:
        if one in there:
            there.discard(other)
    places = (SIDE // CELL) ** 2
    return sorted(rng.permutation(sorted(there)).tolist()[:places])


def _drawn(shapes: Sequence[str], rng: np.random.Generator) -> Image.Image:
    """An image with the shapes in squares of their own, each of any colour, size and turn, over a noisy background."""
    background = GREYS[rng.integers(len(GREYS))]
    canvas = Image.new("RGB", (SIDE * FINER, SIDE * FINER), background)
    draw = ImageDraw.Draw(canvas)
    squares = rng.permutation((SIDE // CELL) ** 2)
    for name, square in zip(shapes, squares, strict=False):
        row, column = divmod(int(square), SIDE // CELL)
        radius = CELL * FINER * rng.uniform(0.36, 0.47)
        slack = CELL * FINER / 2 - radius
        x, y = ((place + 0.5) * CELL * FINER + rng.uniform(-slack, slack) for place in (column, row))
        _draw(draw, name, (x, y), radius, rng.uniform(-0.3, 0.3), COLORS[rng.integers(len(COLORS))], background)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    noisy = np.asarray(small, np.float64) + rng.normal(0, rng.uniform(2, 8), (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))


def _draw(
    draw: ImageDraw.ImageDraw,
    name: str,
    centre: tuple[float, float],
    radius: float,
    turn: float,
    color: tuple[int, int, int],
    background: tuple[int, int, int],
) -> None:
    x, y = centre
    if name in ("circle", "ring"):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
        if name == "ring":
            inner = 0.55 * radius
            draw.ellipse([x - inner, y - inner, x + inner, y + inner], fill=background)
        return
    points = [
        (x + radius * far * math.cos(turn + angle), y + radius * far * math.sin(turn + angle))
        for far, angle in _outline(name)
    ]
    draw.polygon(points, fill=color)


def _outline(name: str) -> list[tuple[float, float]]:
    """Corners as (share of the radius, angle), upright."""
    top = -math.pi / 2
    if name == "star":
        return [(1.0 if place % 2 == 0 else 0.42, top + place * math.pi / 5) for place in range(10)]
    if name == "cross":
        thin = 0.3
        corners = [(1, thin), (thin, thin), (thin, 1), (-thin, 1), (-thin, thin), (-1, thin)]
        corners += [(-x, -y) for x, y in corners]
        return [(math.hypot(x, y), math.atan2(y, x)) for x, y in corners]
    if name == "diamond":
        return [(1.0 if place % 2 == 0 else 0.6, top + place * math.pi / 2) for place in range(4)]
    count = {"triangle": 3, "square": 4}[name]
    first = top if count == 3 else top + math.pi / 4
    return [(1.0, first + place * 2 * math.pi / count) for place in range(count)]
