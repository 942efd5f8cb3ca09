"""From an encoded file to upright RGB pixels: the one decoder of training and production."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit.errors import ToolkitError

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused before it is decoded (decompression bombs)."""
MAX_ASPECT = 1000
"""A sliver is refused: resized by its short side, its long side would take gigabytes."""
SIGNED_FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"),
    *("PSD", "QOI", "DDS", "SGI", "SUN", "ICNS", "BLP", "FITS", "FTEX"),
)
"""Formats that their first bytes tell."""
FORMATS = (
    *SIGNED_FORMATS,
    *("CUR", "DCX", "DIB", "FLI", "GBR", "ICO", "IM", "MSP", "PCD", "PCX", "PIXAR", "TGA", "XBM", "XPM"),
)
"""All that is ever opened: what Pillow decodes by itself. Left out are formats that start programs (EPS, WMF), hold
other files (IPTC) or no pixels of their own (HDF5, GRIB, BUFR, MPEG)."""

SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "PPM": ".ppm",
}
"""File extensions of Pillow's formats."""

DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, OverflowError),
    *(struct.error, Image.DecompressionBombError),
    *(RuntimeError, LookupError, ArithmeticError, AssertionError),  # AVIF; DDS, BLP, FLI, PCX and others
)
"""What Pillow raises on damaged files."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image of each EXIF orientation upright."""


class UnreadableImageError(ToolkitError):
    """A file that can't be decoded to pixels."""

    def __init__(self, reason: str, *, where: object) -> None:
        super().__init__(f"unreadable image: {reason}", where=where, fix="replace or remove the file")
        self.reason = reason


def decode(source: Path | bytes, *, where: Path | None = None, grey: bool = False) -> Image.Image:
    """Decode a file or its bytes to an upright RGB image.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8
    bits, and an animated file gives its first frame. Modes apart from the 16-bit ones convert
    as transformers' image processors do it.

    Args:
        source: the file or its content.
        where: what errors call the image, if it is given as bytes.
        grey: whether a grey image may stay one (mode L), which
            :class:`toolkit.runtime.preprocess.Preprocess` turns into the same values with a third of the work.

    Raises:
        UnreadableImageError: no image, truncated, too many pixels, or without a defined range.
    """
    where = where or (source if isinstance(source, Path) else Path("image in memory"))
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        if not content:
            raise UnreadableImageError("the file is empty", where=where)
        with open_image(content) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(f"{width}x{height} pixels, over the limit of {MAX_PIXELS:,}", where=where)
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UnreadableImageError(f"{width}x{height} pixels, longer than {MAX_ASPECT}:1", where=where)
            image.load()
            # Pillow scales a PPM of more than 8 bits to 16, but calls it I
            sixteen_bits = image.format == "PPM" and image.mode == "I"
            pixels = to_rgb(_upright(image.convert("I;16") if sixteen_bits else image), grey=grey)
            pixels.info.clear()
            return pixels
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that Pillow knows", where=where) from error
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(reason, where=where) from error


def read_encoded(path: Path) -> bytes:
    """An image file's content, as it is encoded.

    Raises:
        UnreadableImageError: it can't be read, as a link that leads nowhere.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error), where=path) from error


def open_image(content: bytes) -> Image.Image:
    """Open an encoded image of one of :data:`FORMATS`, without decoding its pixels."""
    return Image.open(io.BytesIO(content), formats=FORMATS)


def suffix_of(content: bytes, otherwise: str = ".jpg") -> str:
    """File extension that fits an encoded image, such as ``.png``; ``otherwise`` for what is no image."""
    try:
        with open_image(content) as image:
            kind = str(image.format)
    except DAMAGE:
        return otherwise
    known = (suffix for suffix, of in Image.registered_extensions().items() if of == kind)
    return SUFFIXES.get(kind) or next(known, otherwise)


def to_rgb(image: Image.Image, *, grey: bool = False) -> Image.Image:
    """Convert any mode to RGB, or greys of up to 8 bits to L if ``grey``; alpha is laid over white.

    Equal to transformers' ``convert_to_rgb`` but for 16-bit greys, which that one clips to
    white above 255 and this one scales.

    Raises:
        ValueError: the mode has no conversion, or its values no defined scale.
    """
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    elif image.mode in ("I", "F"):
        low, high = image.getextrema()
        if not (low >= 0 and high <= 255):  # type: ignore[operator]
            raise ValueError(f"values from {low} to {high} in mode {image.mode} have no defined scale")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("L" if grey and image.mode in ("1", "L") else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; other tags are not read, since a damaged one must not cost the image."""
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey to 8 bits; a transparent value becomes an alpha channel."""
    grey = np.asarray(image).astype(np.uint32)
    scaled = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        scaled.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    return scaled
