"""scikit-learn's 1,797 handwritten digits of 8x8 pixels, as image folders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from toolkit.data.writer import EncodedImage, write_dataset

ABOUT = {
    "name": "digits",
    "source": "scikit-learn's load_digits: the test part of Alpaydin and Kaynak, Optical Recognition of Digits (1998)",
    "url": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "licence": "CC BY 4.0",
    "note": "8x8 grey images; the 17 ink levels are spread over 0 to 255",
}


def write_digits(dest: Path, *, seed: int = 0, force: bool = False) -> dict[str, Any]:
    """Write ``train/ val/ test/`` of one folder a digit; return the content of ``dataset.json``."""
    digits = load_digits()
    images = []
    for index, (ink, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        encoded = io.BytesIO()
        Image.fromarray(np.round(ink * (255 / 16)).astype(np.uint8)).save(encoded, "PNG")
        images.append(EncodedImage(f"{index:04d}.png", str(target), encoded.getvalue()))
    return write_dataset(dest, images, ABOUT, seed=seed, force=force)
