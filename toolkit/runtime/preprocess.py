"""From RGB pixels to ``pixel_values``, bit for bit as transformers' Pillow image processors."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolkit.runtime.decode import MAX_PIXELS, UnreadableImageError, decode
from toolkit.runtime.value_range import Range

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
LARGEST_SIDE = 4096
"""Of ``pixel_values``; encoders take 224 to 1,024 pixels, and a batch of larger ones is gigabytes."""
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class Preprocess(BaseModel):
    """Decode, resize, crop, rescale and normalise, as one immutable value that travels with the model.

    ``value_range`` is what black and white are in files of more than 8 bits (None: what
    :func:`toolkit.runtime.decode.decode` makes of one file alone); ``resize`` is ``shortest_edge``
    (keep the aspect, the long side truncated) or ``squash`` (both sides to ``size``);
    ``size`` and ``crop`` are [height, width] in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resize: Literal["shortest_edge", "squash"] | None
    size: tuple[Side, Side]
    resample: Resample = "bicubic"
    crop: tuple[Side, Side] | None = None
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    value_range: Range | None = None

    @model_validator(mode="after")
    def _check(self) -> Preprocess:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.std is not None and 0 in self.std:
            raise ValueError("std must not be zero")
        if self.rescale_factor is None and self.mean is None:
            raise ValueError("without rescale_factor and mean the result would not be floating point")
        if self.resize == "shortest_edge" and self.size[0] != self.size[1]:
            raise ValueError("size must hold one number twice where resize is shortest_edge")
        if self.output_size is None:
            raise ValueError("the output has no fixed size: give crop, or resize: squash")
        if self.value_range and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            raise ValueError("value_range must be two finite numbers, the smaller one first")
        return self

    @property
    def output_size(self) -> tuple[int, int] | None:
        """[height, width] of the result; None if it would depend on the image."""
        return self.crop or (self.size if self.resize == "squash" else None)

    @cached_property
    def _table(self) -> Float32:
        """The result for each of the 256 values of a channel: [3, 256].

        Rescaling is done in float64 and rounded to float32, normalising in float32: the order
        and the types of ``transformers.image_transforms.rescale`` and ``normalize``.
        """
        values = np.arange(256, dtype=np.float64)
        column = (values if self.rescale_factor is None else values * self.rescale_factor).astype(np.float32)
        table: Float32 = np.repeat(column[:, None], 3, axis=1)
        if self.mean is not None and self.std is not None:
            mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
            table = (table - mean) / std
        return np.ascontiguousarray(table.T)

    def __call__(self, image: Image.Image) -> Float32:
        """Turn an RGB image of any size, or a grey one (mode L), into float32 [3, height, width]."""
        return self.normalized(self.cropped(np.asarray(self.resized(image))))

    def normalized(self, pixels: UInt8) -> Float32:
        """Rescale and normalise pixels [height, width] or [height, width, 3]: float32 [3, height, width]."""
        values = np.empty((3, *pixels.shape[:2]), np.float32)
        for channel in range(3):
            plane = pixels if pixels.ndim == 2 else pixels[..., channel]
            np.take(self._table[channel], plane, out=values[channel], mode="clip")  # clip: without a buffer in between
        return values

    def decoded(self, source: Path | bytes, *, grey: bool = False, most_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decode a file or its bytes; see :func:`toolkit.runtime.decode.decode`."""
        return decode(source, grey=grey, value_range=self.value_range, most_pixels=most_pixels)

    def resized(self, image: Image.Image) -> Image.Image:
        """Apply the resize alone.

        Raises:
            UnreadableImageError: a sliver of an image that would grow past the limit of pixels.
        """
        if self.resize is None:
            return image
        height, width = self.size
        if self.resize == "shortest_edge":
            short, long = sorted(image.size)
            stretched = int(height * long / short)
            width, height = (height, stretched) if image.width <= image.height else (stretched, height)
        if width * height > MAX_PIXELS:
            what = (
                f"{image.width}x{image.height} pixels would be resized to {width}x{height}, over {MAX_PIXELS:,} pixels"
            )
            raise UnreadableImageError(what, where="resize")
        return image.resize((width, height), Image.Resampling[self.resample.upper()])

    def cropped(self, pixels: UInt8) -> UInt8:
        """Apply the crop alone to pixels [h, w] or [h, w, 3]."""
        return pixels if self.crop is None else _center_crop(pixels, *self.crop)

    def batch(self, sources: list[Path | bytes]) -> Float32:
        """Decode and preprocess files: float32 [batch, 3, height, width]."""
        return np.stack([self(self.decoded(source, grey=True)) for source in sources])


def _center_crop(pixels: UInt8, height: int, width: int) -> UInt8:
    """Cut [height, width] from the middle of pixels [h, w] or [h, w, 3]; a smaller image is padded with zeros."""
    have_height, have_width = pixels.shape[:2]
    pad_height, pad_width = max(0, height - have_height), max(0, width - have_width)
    top, left = (have_height - height) // 2, (have_width - width) // 2
    if pad_height or pad_width:
        before_height, before_width = -(-pad_height // 2), -(-pad_width // 2)
        padding = ((before_height, pad_height - before_height), (before_width, pad_width - before_width), (0, 0))
        pixels = np.pad(pixels, padding[: pixels.ndim])
        top, left = top + before_height, left + before_width
    return pixels[max(0, top) : top + height, max(0, left) : left + width]
