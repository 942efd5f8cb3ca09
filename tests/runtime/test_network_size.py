"""Pixels that are resized and cut beforehand give the same ``pixel_values``, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit.runtime.network_size import network_sized
from toolkit.runtime.preprocess import Preprocess

NORMALISED: dict[str, Any] = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
KINDS: dict[str, dict[str, Any]] = {
    "shortest edge, crop as large": {"resize": "shortest_edge", "size": (32, 32), "crop": (32, 32)},
    "shortest edge, smaller crop": {"resize": "shortest_edge", "size": (37, 37), "crop": (32, 32)},
    "shortest edge, odd crop": {"resize": "shortest_edge", "size": (36, 36), "crop": (31, 31)},
    "shortest edge, larger crop": {"resize": "shortest_edge", "size": (30, 30), "crop": (39, 39)},
    "shortest edge, wide crop": {"resize": "shortest_edge", "size": (32, 32), "crop": (20, 45)},
    "squash": {"resize": "squash", "size": (32, 24)},
    "squash and crop": {"resize": "squash", "size": (40, 40), "crop": (32, 32)},
    "no resize": {"resize": None, "size": (32, 32), "crop": (32, 32)},
}
SIZES = [(32, 32), (50, 33), (33, 50), (301, 64), (64, 302), (20, 20), (31, 90), (36, 40), (37, 37), (1, 5)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_resizing_and_cutting_beforehand_changes_nothing(kind: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(**KINDS[kind], **NORMALISED)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    cut = network_sized("image", preprocess, image)["image"]
    np.testing.assert_array_equal(preprocess(Image.fromarray(cut)), preprocess(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["shortest edge, crop as large", "shortest edge, smaller crop", "squash"])
def test_images_of_all_sizes_get_one_size(kind: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(**KINDS[kind], **NORMALISED)
    image = Image.fromarray(np.zeros((*size, 3), np.uint8))
    assert network_sized("image", preprocess, image)["image"].shape == (*preprocess.size, 3)


def test_pixel_values_are_those_of_the_preprocessing() -> None:
    preprocess = Preprocess(**KINDS["squash"], **NORMALISED)
    image = Image.fromarray(np.full((9, 70), 77, np.uint8))
    np.testing.assert_array_equal(
        network_sized("pixel_values", preprocess, image)["pixel_values"], preprocess(image.convert("RGB"))
    )
