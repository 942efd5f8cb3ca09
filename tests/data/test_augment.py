from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit.data.augment import OPERATIONS, Augment, rand_augment, resized_crop_box
from toolkit.recipe.data import DataConfig


def augment(*names: str, size: tuple[int, int] = (16, 16), **options: Any) -> Augment:
    return Augment(DataConfig(path=Path(), augment=list(names), **options), size)  # type: ignore[arg-type]


def coordinates(height: int, width: int) -> Image.Image:
    """An image whose red and green say where a pixel stood."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], axis=-1))


def noise(mode: str = "RGB", side: int = 24) -> Image.Image:
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "turned"),
    [
        ("flip_horizontal", Image.Transpose.FLIP_LEFT_RIGHT),
        ("flip_vertical", Image.Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_a_flip_gives_the_image_or_its_mirror_image(name: str, turned: Image.Transpose) -> None:
    image = coordinates(21, 34)
    results = {augment(name)(image, np.random.default_rng(seed)).tobytes() for seed in range(32)}
    # all 32 on one side would be a chance of 2 ** -31
    assert results == {image.tobytes(), image.transpose(turned).tobytes()}


@pytest.mark.parametrize(("height", "width"), [(21, 34), (100, 7), (1, 1)])
def test_a_crop_is_a_window_of_80_to_100_percent_of_the_sides(height: int, width: int) -> None:
    image = coordinates(height, width)
    for seed in range(100):
        window = np.asarray(augment("crop")(image, np.random.default_rng(seed)))
        top, left = window[0, 0, :2].astype(int)
        rows, columns = window.shape[:2]
        assert np.array_equal(window, np.asarray(image)[top : top + rows, left : left + columns])
        # a side is rounded to a pixel
        assert 0.8 * height - 0.5 <= rows <= height
        assert 0.8 * width - 0.5 <= columns <= width


@pytest.mark.parametrize("size", [(640, 480), (300, 300), (90, 1000)])
def test_a_resized_crop_keeps_to_its_area_and_ratio(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = resized_crop_box(size, (0.3, 0.9), (0.5, 2.0), rng)
        width, height = right - left, bottom - top
        assert min(left, top) >= 0
        assert right <= size[0]
        assert bottom <= size[1]
        assert 0.49 <= width / height <= 2.04
        if max(size) < 1000:  # else no window of these areas fits
            assert 0.29 <= width * height / math.prod(size) <= 0.91


def test_where_no_window_fits_the_central_one_within_the_ratios_is_taken() -> None:
    assert resized_crop_box((1000, 90), (0.9, 1.0), (0.5, 2.0), np.random.default_rng(0)) == (410, 0, 590, 90)


def test_a_resized_crop_comes_in_the_encoders_size() -> None:
    image = augment("random_resized_crop", size=(18, 26))(coordinates(50, 70), np.random.default_rng(0))
    assert image.size == (26, 18)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_every_operation_keeps_size_and_mode(number: int, strength: float, mode: str) -> None:
    image = noise(mode)
    for sign in (1, -1):
        changed = OPERATIONS[number](image, strength, sign)
        assert (changed.size, changed.mode) == (image.size, mode)


def test_a_grey_image_changes_as_its_three_equal_channels_do() -> None:
    grey = noise("L")
    for seed in range(60):
        as_grey, as_rgb = (
            rand_augment(image, 2, 20, np.random.default_rng(seed)) for image in (grey, grey.convert("RGB"))
        )
        difference = np.abs(np.asarray(as_grey.convert("RGB"), int) - np.asarray(as_rgb, int))
        assert difference.max() <= 1, seed


def test_a_higher_magnitude_changes_more() -> None:
    image = noise(side=40).resize((80, 80), Image.Resampling.BICUBIC)
    changes = [
        np.mean(
            [
                np.abs(
                    np.asarray(rand_augment(image, 2, magnitude, np.random.default_rng(s)), int)
                    - np.asarray(image, int)
                )
                for s in range(80)
            ]
        )
        for magnitude in (1, 25)
    ]
    assert changes[1] > 1.5 * changes[0]


def test_without_names_the_image_stays_as_it_is() -> None:
    assert not augment()
    assert augment()(coordinates(5, 6), np.random.default_rng(0)).tobytes() == coordinates(5, 6).tobytes()


def test_what_is_described_is_what_counts() -> None:
    assert augment("crop", crop_area=(0.1, 1.0)).describe() == augment("crop").describe()
    with_area = [augment("random_resized_crop", crop_area=(low, 1.0)).describe() for low in (0.1, 0.2)]
    assert with_area[0] != with_area[1]
