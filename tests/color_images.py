"""Coloured images, the data set of most tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (30, 60, 220), "green": (30, 170, 60), "red": (220, 40, 40)}
COUNTS = {"train": 12, "val": 5, "test": 7}


def write_images(root: Path, counts: dict[str, int] = COUNTS, classes: tuple[str, ...] = tuple(COLORS)) -> Path:
    """Write noisy coloured images of several sizes as ``SPLIT/CLASS/image.png``."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(20, 60, 2)
                pixels = np.array(COLORS[name]) + rng.normal(0, 25, (height, width, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    return root
