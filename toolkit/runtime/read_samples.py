"""From Pillow's image to the values of its file, where these have more than 8 bits."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import II, MM, OPEN_INFO

from toolkit.runtime.range_statements import SAMPLE_FORMAT, tiff_tag, with_statement
from toolkit.runtime.samples import Samples

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
TILE_WIDTH, TILE_LENGTH = 322, 323
"""Numbers of the TIFF tags that give the size of tiles."""
COLOUR = ("RGB;16", "RGBA;16", "RGBX;16")
"""Pillow's raw modes of colours of 16 bits, without the letter for the order of the bytes."""
OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}
NATIVE = {"F;32BF": "F;32NF", "F;64BF": "F;64NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS", "I;32B": "I;32N"}
"""libtiff hands out the machine's order of bytes, which Pillow 13 minds for unsigned 16 bits alone."""

# kinds of TIFF that Pillow can unpack, but does not list: float64, and two with the high byte first
for white in (0, 1):
    OPEN_INFO.setdefault((II, white, (FLOAT,), 1, (64,), ()), ("F", "F;64F"))
    OPEN_INFO.setdefault((MM, white, (FLOAT,), 1, (64,), ()), ("F", "F;64BF"))
OPEN_INFO.setdefault((MM, 1, (UNSIGNED,), 1, (32,), ()), ("I", "I;32B"))
OPEN_INFO.setdefault((MM, 0, (UNSIGNED,), 1, (16,), ()), ("I;16B", "I;16B"))


def read_samples(image: ImageFile.ImageFile, content: bytes) -> Samples | None:
    """Load an image that was opened from ``content``; None if it holds up to 8 bits, which Pillow's pixels are.

    Also None for colours of 16 bits of which Pillow hands out 8 alone: CMYK and premultiplied alpha.
    """
    raw_mode, arguments = _decoder(image)
    if image.tile and image.tile[0].codec_name == "libtiff" and raw_mode in NATIVE:
        _set_raw_mode(image, NATIVE[raw_mode])
    image.load()
    if raw_mode[:-1] in COLOUR:
        samples = _colour(image, raw_mode, content)
    elif raw_mode == "LA;16B":
        samples = _grey_with_alpha(content)
    elif image.format == "TIFF" and image.mode == "L" and tiff_tag(image, SAMPLE_FORMAT) == SIGNED:
        samples = Samples(np.asarray(image).view(np.int8), "8-bit signed")
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        samples = _grey(image, raw_mode)
    else:
        return None
    transparent = image.info.get("transparency")
    if transparent is not None:
        same = np.equal(samples.values, transparent)
        hidden = same.all(-1) if same.ndim == 3 else same
        samples = replace(samples, opacity=np.where(hidden, 0, 255).astype(np.uint8))
    return with_statement(samples, image, arguments, content)


def tile_pixels(image: ImageFile.ImageFile) -> float:
    """Pixels of a TIFF's tile, which is decoded whole however small the image is; 0 without tiles."""
    if image.format != "TIFF":
        return 0
    return (tiff_tag(image, TILE_WIDTH) or 0) * (tiff_tag(image, TILE_LENGTH) or 0)


def _decoder(image: ImageFile.ImageFile) -> tuple[str, list[Any]]:
    """The raw mode that Pillow's decoder is given, and its other arguments."""
    given: Any = image.tile[0].args if image.tile else ""
    first, *others = given if isinstance(given, tuple) and given else (given,)
    return str(first), others


def _set_raw_mode(image: ImageFile.ImageFile, raw_mode: str) -> None:
    """Let the decoder unpack otherwise."""
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]


def _grey(image: Image.Image, raw_mode: str) -> Samples:
    values = np.asarray(image)
    if image.mode == "F":
        return Samples(values, "float")
    if image.mode.startswith("I;16"):
        return Samples(values.astype(np.uint16), "16-bit")
    if raw_mode.startswith("I;16"):
        return Samples(values, "16-bit signed")
    if image.format == "TIFF" and raw_mode in ("I;32N", "I;32B"):
        return Samples(values.view(np.uint32), "32-bit")
    return Samples(values, "32-bit")


def _colour(image: Image.Image, raw_mode: str, content: bytes) -> Samples:
    """Both bytes of each value: Pillow keeps the high one, and with the other order of bytes the low one."""
    with Image.open(io.BytesIO(content)) as again:
        _set_raw_mode(again, raw_mode[:-1] + OTHER_ORDER[raw_mode[-1]])
        low = np.asarray(again)
    high = np.asarray(image)
    values = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    return Samples(values, "16-bit colour", opacity=high[..., 3] if high.shape[-1] == 4 else None)


def _grey_with_alpha(content: bytes) -> Samples:
    """A PNG's pixels are four bytes, the high one first: grey, and alpha."""
    with Image.open(io.BytesIO(content)) as again:
        _set_raw_mode(again, "RGBA")
        quadruples = np.asarray(again)
    grey = quadruples[..., 0].astype(np.uint16) << 8 | quadruples[..., 1]
    return Samples(np.repeat(grey[..., None], 3, axis=-1), "16-bit with alpha", opacity=quadruples[..., 2])
