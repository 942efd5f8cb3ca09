"""Stand-ins in the layout of the chest X-rays of Kermany et al. (2018): no picture of anybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

PATTERN = r"(person\d+|IM-\d+)"
PATIENTS = {"train": (16, 28), "val": (6, 6), "test": (10, 18)}
"""Patients without and with pneumonia by folder, from whom one to three images come."""


def write_chest_xrays(root: Path, patients: Mapping[str, tuple[int, int]] = PATIENTS) -> Path:
    """Write ``SPLIT/NORMAL`` and ``SPLIT/PNEUMONIA``: grey noise, and with pneumonia a bright blob, clear or faint.

    Nobody stands in two splits; images of one patient share their brightness and their blob.
    """
    rng = np.random.default_rng(0)
    number = 0
    for split, counts in patients.items():
        for label, count in zip(("NORMAL", "PNEUMONIA"), counts, strict=True):
            folder = root / split / label
            folder.mkdir(parents=True)
            for _ in range(count):
                number += 1
                level, strength = rng.uniform(70, 110), rng.uniform(10, 90) if label == "PNEUMONIA" else 0.0
                middle = rng.uniform(0.3, 0.7, 2)
                for image in range(rng.integers(1, 4)):
                    height, width = rng.integers(60, 90, 2)
                    down, right = np.ogrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
                    blob = np.exp(-((down - middle[0]) ** 2 + (right - middle[1]) ** 2) / 0.03)
                    pixels = level + strength * blob + rng.normal(0, 12, (height, width))
                    name = _name(label, number, image, rng)
                    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return root


def _name(label: str, number: int, image: int, rng: np.random.Generator) -> str:
    """A file name as in the published data."""
    if label == "PNEUMONIA":
        return f"person{number}_{rng.choice(['bacteria', 'virus'])}_{3 * number + image}.jpeg"
    return f"{rng.choice(['', 'NORMAL2-'])}IM-{number:04d}-{image + 1:04d}.jpeg"
