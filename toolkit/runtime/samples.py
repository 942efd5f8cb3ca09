"""The values of an image of more than 8 bits as its file holds them, and what the file says about their range."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from toolkit.runtime.value_range import FULL, Range, grey_levels, number, range_by_rule

PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
SIGNED = 2
STATED_TAGS = ((340, 341), (280, 281))
"""TIFF 6.0: SMinSampleValue and SMaxSampleValue, else MinSampleValue and MaxSampleValue."""
COLOUR = ("RGB;16", "RGBA;16", "RGBX;16")
"""Pillow's raw modes of colours of 16 bits, without the letter for the order of the bytes."""
OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of an image, upright or not as Pillow has it."""

    values: npt.NDArray[Any]
    """[height, width], or [height, width, 3] of colours."""
    kind: str
    """In words, such as ``16-bit``."""
    stated: Range | None = None
    """What the file says is black and white; None where it says nothing, or what its values contradict."""
    fixed: bool = False
    """Whether the statement belongs to the format (12-bit TIFF), so that it holds for this file whatever others say."""
    inverted: bool = False
    """Whether the smallest value is white."""
    opacity: npt.NDArray[np.uint8] | None = None

    @property
    def whole_numbers(self) -> bool:
        """Whether the values are integers."""
        return bool(self.values.dtype.kind in "iu")

    def extremes(self) -> Range:
        """The smallest and the largest value.

        Raises:
            ValueError: one of them is no finite number.
        """
        low, high = float(self.values.min()), float(self.values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinity among its values")
        return low, high

    def own_range(self) -> Range:
        """The range of the file alone: what it states, else by the rule.

        Raises:
            ValueError: no rule fits, or a value is no finite number.
        """
        low, high = self.extremes()
        found = self.stated or range_by_rule(low, high, whole_numbers=self.whole_numbers)
        if found is None:
            raise ValueError(
                f"values from {number(low)} to {number(high)} ({self.kind}) have no defined scale; "
                "a classifier trained with data.value_range=[low, high] has one"
            )
        return found

    def to_image(self, value_range: Range) -> Image.Image:
        """8-bit pixels of mode L, RGB, LA or RGBA."""
        if self.values.ndim == 3 and value_range == FULL:
            levels = (self.values >> 8).astype(np.uint8)  # as Pillow and transformers have it
        else:
            if not self.whole_numbers:
                self.extremes()
            levels = grey_levels(self.values, value_range)
        image = Image.fromarray(255 - levels if self.inverted else levels)
        if self.opacity is not None:
            image.putalpha(Image.fromarray(self.opacity))
        return image


def read_samples(image: ImageFile.ImageFile, content: bytes) -> Samples | None:
    """Load an image that was opened from ``content``; None if it holds up to 8 bits, which Pillow's pixels are.

    Also None for colours of 16 bits that Pillow hands out as 8 alone: grey with alpha, CMYK, premultiplied alpha.
    """
    raw_mode, *arguments = _arguments(image)
    image.load()
    if str(raw_mode)[:-1] in COLOUR:
        samples = _colour(image, raw_mode, content)
    elif image.format == "TIFF" and image.mode == "L" and _tag(image, SAMPLE_FORMAT) == SIGNED:
        samples = Samples(np.asarray(image).view(np.int8), "8-bit signed")
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        samples = _grey(image, raw_mode)
    else:
        return None
    if image.format == "PPM" and samples.whole_numbers:
        samples = _of_pgm(samples, arguments[0] if arguments else 65535)
    elif image.format == "JPEG2000":
        samples = _of_jpeg_2000(samples, content)
    elif image.format == "PNG":
        samples = _of_png(samples, image.info.get("transparency"), content)
    elif image.format == "TIFF":
        samples = _of_tiff(samples, image)
    return samples


def _arguments(image: ImageFile.ImageFile) -> list[Any]:
    """Of Pillow's decoder, the raw mode first."""
    given: Any = image.tile[0].args if image.tile else None
    return list(given) if isinstance(given, tuple) and given else [given or ""]


def _grey(image: Image.Image, raw_mode: str) -> Samples:
    values = np.asarray(image)
    if image.mode == "F":
        return Samples(values, "float")
    if image.mode.startswith("I;16"):
        return Samples(values.astype(np.uint16), "16-bit")
    if raw_mode.startswith("I;16"):
        return Samples(values, "16-bit signed")
    if raw_mode == "I;32N" and _tag(image, SAMPLE_FORMAT) != SIGNED:
        return Samples(values.view(np.uint32), "32-bit")
    return Samples(values, "32-bit")


def _colour(image: Image.Image, raw_mode: str, content: bytes) -> Samples:
    """Both bytes of each value: Pillow keeps the high one, and with the other order of bytes the low one."""
    other = raw_mode[:-1] + OTHER_ORDER[raw_mode[-1]]
    with Image.open(io.BytesIO(content)) as again:
        again.tile = [
            tile._replace(args=other if isinstance(tile.args, str) else (other, *(tile.args or ())[1:]))
            for tile in again.tile
        ]
        low = np.asarray(again)
    high = np.asarray(image)
    values = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    return Samples(values, "16-bit colour", opacity=high[..., 3] if high.shape[-1] == 4 else None)


def _of_pgm(samples: Samples, maxval: int) -> Samples:
    """Pillow scaled the values to 16 bits."""
    values = np.rint(samples.values.astype(np.float64) * (maxval / 65535)).astype(np.uint16)
    return replace(samples, values=values, kind=f"{maxval.bit_length()}-bit", stated=(0.0, float(maxval)), fixed=True)


def _of_jpeg_2000(samples: Samples, content: bytes) -> Samples:
    """Pillow shifted the values to unsigned 16 bits (ISO/IEC 15444-1, A.5.1: Ssiz)."""
    start = content.find(b"\xff\x4f\xff\x51")
    size = content[start + 42] if 0 <= start < len(content) - 42 else 15
    bits, signed = (size & 0x7F) + 1, bool(size & 0x80)
    values = samples.values >> max(0, 16 - bits)
    if signed:
        return replace(samples, values=values.astype(np.int32) - (1 << min(bits, 16) - 1), kind=f"{bits}-bit signed")
    if bits >= 16:
        return samples
    return replace(samples, values=values, kind=f"{bits}-bit", stated=(0.0, float((1 << bits) - 1)), fixed=True)


def _of_png(samples: Samples, transparent: Any, content: bytes) -> Samples:
    """What sBIT says (PNG, 11.3.2.3), and the value that is transparent.

    Values of fewer significant bits are to be scaled to 16; where all fit into these bits, the writer left them as
    they were.
    """
    if transparent is not None:
        same = np.equal(samples.values, transparent)
        hidden = same.all(-1) if same.ndim == 3 else same
        samples = replace(samples, opacity=np.where(hidden, 0, 255).astype(np.uint8))
    significant = next((max(chunk[:3]) for kind, chunk in _png_chunks(content) if kind == b"sBIT" and chunk), 16)
    if not 0 < significant < 16:
        return samples
    white = (1 << significant) - 1
    return replace(samples, stated=(0.0, float(white)) if samples.values.max() <= white else FULL)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks before the pixels."""
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            return
        yield kind, content[at + 8 : at + 8 + length]
        at += length + 12


def _of_tiff(samples: Samples, image: Image.Image) -> Samples:
    """What the tags say."""
    samples = replace(samples, inverted=_tag(image, PHOTOMETRIC) == 0)
    bits = _tag(image, BITS)
    if samples.kind == "16-bit" and bits is not None and bits < 16:
        return replace(samples, kind=f"{bits:g}-bit", stated=(0.0, float((1 << int(bits)) - 1)), fixed=True)
    unsigned = samples.values.dtype.kind == "u"
    for low_tag, high_tag in STATED_TAGS if unsigned else STATED_TAGS[:1]:
        low, high = _tag(image, low_tag) or 0.0, _tag(image, high_tag)
        if high is not None and low < high:
            fits = low <= samples.values.min() and samples.values.max() <= high
            return replace(samples, stated=(low, high)) if fits else samples
    return samples


def _tag(image: Image.Image, number: int) -> float | None:
    """The first value of a TIFF tag; None if it is not there, or no number."""
    value: Any = getattr(image, "tag_v2", {}).get(number)
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
