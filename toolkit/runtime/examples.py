"""One image as a graph takes it: from a file, its content, an opened image or an array."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import IN_MEMORY, MAX_PIXELS, ORIENTATION_TAG, UPRIGHT, decoding, to_rgb
from toolkit.runtime.inputs import Inputs
from toolkit.runtime.preprocess import Preprocess

Source = Path | str | bytes | Image.Image | np.ndarray[Any, Any]
"""What can be predicted: a file, its content, an opened image, or RGB pixels uint8 [height, width, 3]."""
MANY_BITS = ("I", "F")
"""First letters of Pillow's modes of more than 8 bits."""


def graph_input(kind: str, preprocess: Preprocess, source: Source) -> Inputs:
    """One image as a graph takes it, by the name of its input.

    Args:
        kind: ``image`` or ``pixel_values``; see :attr:`toolkit.runtime.session.Session.input`.
        preprocess: what stands between an image and ``pixel_values``.
        source: the image. An opened one is treated as its file would be.

    Raises:
        UnreadableImageError: it can't be decoded.
        ToolkitError: an array that holds no RGB pixels, or something else than an image.
    """
    if kind == "image":
        return {kind: np.asarray(decoded_source(preprocess, source, grey=False))}
    return {kind: preprocess(decoded_source(preprocess, source, grey=True))}


def decoded_source(preprocess: Preprocess, source: Source, *, grey: bool, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """One image as upright RGB pixels, or as grey ones (mode L) where it is grey and ``grey``.

    Raises:
        UnreadableImageError: it can't be decoded, or an encoded one has more pixels than ``most_pixels``.
        ToolkitError: an array that holds no RGB pixels, or something else than an image.
    """
    if isinstance(source, str):
        source = Path(source)
    if isinstance(source, (Path, bytes)):
        return preprocess.decoded(source, grey=grey, most_pixels=most_pixels)
    if isinstance(source, Image.Image):
        return _of_image(preprocess, source, grey=grey)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            what = f"an array of {source.dtype} {list(source.shape)} is no image"
            raise ToolkitError(what, where="predict", fix="give uint8 [height, width, 3] in RGB")
        return Image.fromarray(np.ascontiguousarray(source))
    what = f"a {type(source).__name__} is no image"
    raise ToolkitError(what, where="predict", fix="give a path, bytes, a Pillow image, or uint8 [height, width, 3]")


def _of_image(preprocess: Preprocess, image: Image.Image, *, grey: bool) -> Image.Image:
    with decoding(IN_MEMORY):
        image.load()  # a TIFF is set upright by it
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
        upright = image if turn is None else image.transpose(turn)
        if image.mode.startswith(MANY_BITS):  # black and white are decided as for a file
            content = io.BytesIO()
            Image.frombytes(upright.mode, upright.size, upright.tobytes()).save(content, "TIFF")  # without its tags
            return preprocess.decoded(content.getvalue(), grey=grey)
        pixels = to_rgb(upright, grey=grey)
        if pixels is image:
            pixels = image.copy()  # the caller's keeps what it knows of itself
        pixels.info.clear()
        return pixels
