"""What a file says about the range of its values: bits, maxval, sBIT, TIFF's tags."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from toolkit.runtime.samples import Samples
from toolkit.runtime.value_range import FULL

PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
STATED_TAGS = ((340, 341), (280, 281))
"""TIFF 6.0: SMinSampleValue and SMaxSampleValue, else MinSampleValue and MaxSampleValue."""


def with_statement(samples: Samples, image: Image.Image, decoder: list[Any], content: bytes) -> Samples:
    """The same values with what their file says, in the file's own units.

    Args:
        samples: what Pillow made of the file.
        image: the loaded image.
        decoder: the arguments of Pillow's decoder behind the raw mode.
        content: the file.
    """
    if image.format == "PPM" and samples.whole_numbers:
        return _of_pgm(samples, decoder[0] if decoder else 65535)
    if image.format == "JPEG2000":
        return _of_jpeg_2000(samples, content)
    if image.format == "PNG":
        return _of_png(samples, content)
    return _of_tiff(samples, image) if image.format == "TIFF" else samples


def tiff_tag(image: Image.Image, number: int) -> float | None:
    """The first value of a TIFF tag; None if it is not there, or no number."""
    value: Any = getattr(image, "tag_v2", {}).get(number)
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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


def _of_png(samples: Samples, content: bytes) -> Samples:
    """What sBIT says (PNG, 11.3.2.3).

    Values of fewer significant bits are to be scaled to 16; where all fit into these bits, the writer left them as
    they were.
    """
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
    samples = replace(samples, inverted=tiff_tag(image, PHOTOMETRIC) == 0)
    bits = tiff_tag(image, BITS)
    if samples.kind == "16-bit" and bits is not None and bits < 16:
        return replace(samples, kind=f"{bits:g}-bit", stated=(0.0, float((1 << int(bits)) - 1)), fixed=True)
    unsigned = samples.values.dtype.kind == "u"
    for low_tag, high_tag in STATED_TAGS if unsigned else STATED_TAGS[:1]:
        low, high = tiff_tag(image, low_tag) or 0.0, tiff_tag(image, high_tag)
        if high is not None and low < high:
            fits = low <= samples.values.min() and samples.values.max() <= high
            return replace(samples, stated=(low, high)) if fits else samples
    return samples
