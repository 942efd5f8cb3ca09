"""Files of more than 8 bits that Pillow reads but does not write: any type of value, byte order and tag."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ORDERS = ("<", ">")
CODES = {2: "s", 3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d"}
"""TIFF 6.0's types as ``struct`` calls them."""
FORMATS = {"u": 1, "i": 2, "f": 3}
Tag = tuple[int, int, Sequence[float]]


def tiff(
    pixels: npt.NDArray[Any], order: str = "<", *, photometric: int = 1, extra: Sequence[Tag] = (), packed: bool = False
) -> bytes:
    """A TIFF, in Deflate if ``packed``, of pixels [height, width] or [height, width, channels]."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    tags: list[Tag] = [
        (258, 3, [8 * pixels.dtype.itemsize] * channels),
        (262, 3, [photometric]),
        (277, 3, [channels]),
        (339, 3, [FORMATS[pixels.dtype.kind]] * channels),
    ]
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    return _tiff(pixels.shape[1], pixels.shape[0], [*tags, *extra], content, order, packed=packed)


def packed_12_bit_tiff(values: Sequence[int]) -> bytes:
    """A TIFF of one row of an even number of values, two in three bytes."""
    bits = "".join(f"{value:012b}" for value in values)
    content = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return _tiff(len(values), 1, [(258, 3, [12]), (262, 3, [1]), (277, 3, [1])], content, "<")


def _tiff(width: int, height: int, tags: Sequence[Tag], content: bytes, order: str, *, packed: bool = False) -> bytes:
    content = zlib.compress(content) if packed else content
    layout: list[Tag] = [(256, 4, [width]), (257, 4, [height]), (259, 3, [8 if packed else 1]), (278, 4, [height])]
    entries = sorted([*layout, *tags, (273, 4, [0]), (279, 4, [len(content)])])
    first = 8 + 2 + 12 * len(entries) + 4
    values_as_bytes = [_packed(order, kind, values) for _, kind, values in entries]
    pixels_at = first + sum(len(value) for value in values_as_bytes if len(value) > 4)
    directory, long_values = b"", b""
    for (tag, kind, values), value in zip(entries, values_as_bytes, strict=True):
        short = struct.pack(f"{order}I", pixels_at) if tag == 273 else value
        if len(short) > 4:
            short = struct.pack(f"{order}I", first + len(long_values))
            long_values += value
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + short.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(entries)) + directory + bytes(4) + long_values + content


def _packed(order: str, kind: int, values: Sequence[Any]) -> bytes:
    return bytes(values) if kind == 2 else struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)


def png(pixels: npt.NDArray[np.uint16], *, significant: int | None = None, transparent: int | None = None) -> bytes:
    """A 16-bit PNG of pixels [height, width] or [height, width, 2 to 4].

    ``significant`` is what ``sBIT`` says of each channel, ``transparent`` what ``tRNS`` does.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color, 0, 0, 0)
    rows = b"".join(b"\0" + line.tobytes() for line in pixels.astype(">u2"))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", struct.pack(">H", transparent) * channels))
    if significant is not None:
        chunks.insert(1, (b"sBIT", bytes([significant] * channels)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
