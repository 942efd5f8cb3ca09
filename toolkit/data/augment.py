"""Random changes of training images, each a function of a random generator, on the image as decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from toolkit.recipe.data import DataConfig

FILL = 128
"""Grey level of what a turned or shifted image uncovers, the same in every channel."""


class Augment:
    """The changes that a recipe names, in a fixed order: crop, flips, RandAugment.

    Args:
        config: a recipe's ``data`` section.
        size: (height, width) that the encoder takes; a random resized crop gives it at once, so
            that no image is resampled twice.
    """

    def __init__(self, config: DataConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size
        self.names = frozenset(config.augment)

    def __bool__(self) -> bool:
        return bool(self.names)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A changed copy of an image in mode RGB or L."""
        if "crop" in self.names:
            image = cropped(image, rng)
        if "random_resized_crop" in self.names:
            box = resized_crop_box(image.size, self.config.crop_area, self.config.crop_ratio, rng)
            image = image.resize(self.size[::-1], Image.Resampling.BICUBIC, box=box)
        if "flip_horizontal" in self.names and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if "flip_vertical" in self.names and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if "rand_augment" in self.names:
            image = rand_augment(image, self.config.rand_augment_operations, self.config.rand_augment_magnitude, rng)
        return image

    def describe(self) -> dict[str, Any]:
        """All that the changes depend on beside the random generator."""
        options = {"crop_area", "crop_ratio"} if "random_resized_crop" in self.names else set()
        if "rand_augment" in self.names:
            options |= {"rand_augment_operations", "rand_augment_magnitude"}
        return {"names": sorted(self.names)} | self.config.model_dump(mode="json", include=options)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window of 80 to 100 % of each side."""
    width, height = (max(1, round(side * rng.uniform(0.8, 1.0))) for side in image.size)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def resized_crop_box(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A window (left, top, right, bottom) with a share of the area and a width to height ratio drawn from ranges.

    Args:
        size: (width, height) of the image.
        area: smallest and largest share of the area.
        ratio: smallest and largest ratio, drawn evenly in its logarithm.
        rng: source of randomness.

    Source: Szegedy et al., "Going Deeper with Convolutions" (2015), section 6. After ten windows
    that don't fit, the largest central one within the ratios.
    """
    width, height = size
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def rand_augment(image: Image.Image, operations: int, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """A few operations drawn with equal chance, one after the other, all at one magnitude from 0 to 30.

    Source: Cubuk et al., "RandAugment" (2020); the operations' ranges are those of AutoAugment
    (Cubuk et al., 2019, table 6).
    """
    for number in rng.integers(0, len(OPERATIONS), operations):
        sign = 1 if rng.random() < 0.5 else -1
        image = OPERATIONS[number](image, magnitude / 30, sign)
    return image


Operation = Callable[[Image.Image, float, int], Image.Image]
"""(image, strength from 0 to 1, +1 or -1) -> image."""


def _affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    """Sample at (ax + by + c, dx + ey + f)."""
    fill = FILL if image.mode == "L" else (FILL,) * 3
    return image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(image: Image.Image, strength: float, sign: int) -> Image.Image:
    fill = FILL if image.mode == "L" else (FILL,) * 3
    return image.rotate(30 * strength * sign, Image.Resampling.BILINEAR, fillcolor=fill)


def _enhanced(enhancer: Callable[[Image.Image], Any]) -> Operation:
    return lambda image, strength, sign: enhancer(image).enhance(1 + 0.9 * strength * sign)


OPERATIONS: tuple[Operation, ...] = (
    lambda image, strength, sign: image,
    lambda image, strength, sign: ImageOps.autocontrast(image),
    lambda image, strength, sign: ImageOps.equalize(image),
    _rotate,
    lambda image, strength, sign: ImageOps.solarize(image, round(256 * (1 - strength))),
    lambda image, strength, sign: ImageOps.posterize(image, 8 - round(4 * strength)),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    lambda image, strength, sign: _affine(image, 1, 0.3 * strength * sign, 0, 0, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0, 0.3 * strength * sign, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0.45 * strength * sign * image.width, 0, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0, 0, 1, 0.45 * strength * sign * image.height),
)
"""Identity, auto-contrast, equalise, rotate, solarise, posterise, colour, contrast, brightness, sharpness, shear in x
and y, shift in x and y."""
