"""From an encoded file to upright RGB pixels: the one decoder of training and production."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from toolkit.errors import ToolkitError
from toolkit.regular_files import read_regular
from toolkit.runtime.read_samples import read_samples, tile_pixels
from toolkit.runtime.samples import Samples
from toolkit.runtime.value_range import Range

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused before it is decoded (decompression bombs)."""
MAX_ASPECT = 1000
"""A sliver is refused: resized by its short side, its long side would take gigabytes."""
MAX_BYTES = 1 << 30
"""A larger file is refused before it is read: 100 million pixels of 64 bits take 800 MB without any compression."""
MAX_TILE_PIXELS = 1 << 24
"""A TIFF's tile that is larger than its image may have so many pixels, since it is decoded whole."""
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

REDUCIBLE = ("JPEG", "MPO")
"""Formats that decode to a smaller image for less work, in blocks of 8x8 pixels."""
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

IN_WORDS = (OSError, EOFError, SyntaxError, ValueError, NotImplementedError, RuntimeError, Image.DecompressionBombError)
"""Exceptions whose message says what is wrong with a file; others name a line of Pillow's code."""
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged files; what can't be decoded is an error here
IN_MEMORY = Path("image in memory")
"""What errors call an image that has no file."""
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


class TooManyPixelsError(UnreadableImageError):
    """An image over the limit of pixels, which is known before they are decoded."""


def decode(
    source: Path | bytes,
    *,
    where: Path | None = None,
    grey: bool = False,
    value_range: Range | None = None,
    most_pixels: int = MAX_PIXELS,
    reduced_to: int | None = None,
) -> Image.Image:
    """Decode a file or its bytes to an upright RGB image.

    EXIF orientation is applied, transparency is laid over white, values of more than 8 bits are
    scaled to 8, and an animated file gives its first frame. Modes of up to 8 bits convert as
    transformers' image processors do it.

    Args:
        source: the file or its content.
        where: what errors call the image, if it is given as bytes.
        grey: whether a grey image may stay one (mode L), which
            :class:`toolkit.runtime.preprocess.Preprocess` turns into the same values with a third of the work.
        value_range: what black and white are in files of more than 8 bits; what lies outside saturates.
            Without it, what the file states, else :func:`toolkit.runtime.value_range.range_by_rule` on it alone.
        most_pixels: an image of more is refused before its pixels are decoded.
        reduced_to: pixels that the short side needs: a JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves so many.

    Raises:
        UnreadableImageError: no image, truncated, too many pixels, or without a defined range.
    """
    where = where or (source if isinstance(source, Path) else IN_MEMORY)
    loaded = load(source, where=where, most_pixels=most_pixels, reduced_to=reduced_to)
    image, samples = loaded.image, loaded.samples
    if samples is not None:
        with explained(where):
            image = samples.to_image(value_range or samples.own_range())
    with decoding(where):
        turned = image if loaded.turn is None else image.transpose(loaded.turn)
        pixels = to_rgb(turned, grey=grey)
        pixels.info.clear()
        return pixels


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file's pixels as they are stored."""

    image: Image.Image
    samples: Samples | None
    """The values, if they have more than 8 bits."""
    size: tuple[int, int]
    mode: str
    turn: Image.Transpose | None
    """What sets it upright."""


def load(source: Path | bytes, *, where: Path, most_pixels: int = MAX_PIXELS, reduced_to: int | None = None) -> Loaded:
    """Decode a file or its bytes without converting anything; see :func:`decode` for the arguments.

    Raises:
        UnreadableImageError: no image, damaged, or larger than a limit; this is known before its pixels are decoded.
    """
    content = read_encoded(source) if isinstance(source, Path) else source
    if not content:
        raise UnreadableImageError("the file is empty", where=where)
    with decoding(where), open_image(content) as image:
        _refuse_large(image, where, most_pixels)
        if reduced_to and image.format in REDUCIBLE:
            image.draft(None, (reduced_to, reduced_to))
        mode, claimed = image.mode, image.size
        samples = read_samples(image, content)
        if image.size != claimed:  # formats that hold other files, such as ICO, learn it from these
            _refuse_large(image, where, most_pixels)
        # other tags are not read, since a damaged one must not cost the image
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
        return Loaded(image, samples, image.size, mode, turn)


def _refuse_large(image: ImageFile.ImageFile, where: Path, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        raise TooManyPixelsError(f"{width}x{height} pixels, over the limit of {most_pixels:,}", where=where)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(f"{width}x{height} pixels, longer than {MAX_ASPECT}:1", where=where)
    tile = tile_pixels(image)
    if tile > max(width * height, MAX_TILE_PIXELS):
        raise UnreadableImageError(f"{width}x{height} pixels in tiles of {tile:,}", where=where)


@contextmanager
def decoding(where: Path) -> Iterator[None]:
    """The boundary around Pillow: whatever it raises becomes :class:`UnreadableImageError`.

    It stands around calls of Pillow alone, which has no exception of its own for damage: its decoders, many of them
    in Python, raise what the file's content makes of their code, from AttributeError to ZeroDivisionError.
    """
    try:
        yield
    except ToolkitError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that Pillow knows", where=where) from error
    except MemoryError as error:
        raise UnreadableImageError("it takes more memory than there is", where=where) from error
    except Exception as error:
        raise UnreadableImageError(_in_words(error), where=where) from error


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn what :class:`toolkit.runtime.samples.Samples` raises on values without a scale into the image's error."""
    try:
        yield
    except (ValueError, MemoryError) as error:
        raise UnreadableImageError(_in_words(error), where=where) from error


def _in_words(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, IN_WORDS) and said:
        return said
    return f"damaged ({type(error).__name__}{': ' if said else ''}{said})"


def read_encoded(path: Path) -> bytes:
    """An image file's content, as it is encoded.

    Raises:
        UnreadableImageError: it can't be read, as a link that leads nowhere, has more than ``MAX_BYTES``, or is no
            regular file.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: no system has such a name, as one with a zero byte
        raise UnreadableImageError(_in_words(error), where=path) from error


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Open an encoded image of one of :data:`FORMATS`, without decoding its pixels."""
    return Image.open(io.BytesIO(content), formats=FORMATS)


def suffix_of(content: bytes, otherwise: str = ".jpg") -> str:
    """File extension that fits an encoded image, such as ``.png``; ``otherwise`` for what is no image."""
    try:
        with decoding(IN_MEMORY), open_image(content) as image:
            kind = str(image.format)
    except UnreadableImageError:
        return otherwise
    known = (suffix for suffix, of in Image.registered_extensions().items() if of == kind)
    return SUFFIXES.get(kind) or next(known, otherwise)


def to_rgb(image: Image.Image, *, grey: bool = False) -> Image.Image:
    """Convert any mode of up to 8 bits to RGB, or greys to L if ``grey``; alpha is laid over white.

    Equal to transformers' ``convert_to_rgb``.

    Raises:
        ValueError: the mode has no conversion.
    """
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("L" if grey and image.mode in ("1", "L") else "RGB")
