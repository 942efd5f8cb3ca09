"""One example as a graph takes it: an image from a file, its content, an opened image or an array; maybe a text."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import IN_MEMORY, MAX_PIXELS, ORIENTATION_TAG, UPRIGHT, decoding, to_rgb
from toolkit.runtime.inputs import IMAGE_MASK, INPUT_IDS, Inputs
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.tokenizer import Tokenizer

MANY_BITS = ("I", "F")
"""First letters of Pillow's modes of more than 8 bits."""


ImageSource = Path | str | bytes | Image.Image | np.ndarray[Any, Any]
"""An image: a file, its content, an opened image, or RGB pixels uint8 [height, width, 3]."""


@dataclass(frozen=True)
class ImageText:
    """An image and the text beside it, of which one may be missing where a bundle allows it."""

    image: ImageSource | None
    text: str | None


Source = ImageSource | ImageText
"""What can be predicted: an image, or an image with a text."""


@dataclass(frozen=True)
class ExampleReader:
    """Makes what one graph takes of images, and of texts where it takes some."""

    kind: str
    """How it takes its image: ``image`` or ``pixel_values``; ``input_ids`` where it takes texts alone."""
    preprocess: Preprocess
    tokenizer: Tokenizer | None = None
    """Of a graph that takes texts."""
    takes_missing: bool = False
    """Whether image or text may be missing."""

    @property
    def takes_image(self) -> bool:
        """Whether the graph takes images."""
        return self.kind != INPUT_IDS

    @property
    def takes_text(self) -> bool:
        """Whether the graph takes texts."""
        return self.tokenizer is not None

    def of_content(self, content: bytes, text: str | None = None) -> Inputs:
        """One example of a file's content: an encoded image, or where the graph takes texts alone a text in UTF-8.

        Args:
            content: of the file.
            text: beside the image, if any.
        """
        return self(content, text) if self.takes_image else self(None, content.decode())

    def __call__(self, source: Source | None, text: str | None = None) -> Inputs:
        """One example.

        Args:
            source: the image, or image and text together; None where the image is missing.
            text: the text; None where it is missing.

        Raises:
            UnreadableImageError: the image can't be decoded.
            ToolkitError: image or text is missing, and the graph doesn't allow it; a text for a graph of images alone;
                what :func:`graph_input` raises.
        """
        if isinstance(source, ImageText):
            return self(source.image, source.text)
        self.check(image=source is not None, text=text is not None)
        return self.beside(None if source is None else graph_input(self.kind, self.preprocess, source), text)

    def beside(self, image: Inputs | None, text: str | None) -> Inputs:
        """An image as the graph takes it, with its text.

        Args:
            image: None where it is missing.
            text: None where it is missing, or the graph takes none.

        Raises:
            ToolkitError: what :meth:`toolkit.runtime.tokenizer.Tokenizer.encode` raises.
        """
        inputs = image if image is not None else self._no_image() if self.takes_image else {}
        if self.tokenizer is None:
            return inputs
        tokens = {name: rows[0] for name, rows in self.tokenizer([text]).inputs.items()}
        there = {IMAGE_MASK: np.array(image is not None, np.int64)} if self.takes_missing else {}
        return {**inputs, **tokens, **there}

    def check(self, *, image: bool, text: bool) -> None:
        """Raise :class:`ToolkitError` unless the graph takes what is given: image, text or both."""
        if text and not self.takes_text:
            fix = "leave the text out, or use a bundle of model.inputs: [image, text]"
            raise ToolkitError("the bundle takes images alone, and no text", where="text", fix=fix)
        if image and not self.takes_image:
            fix = "leave the image out, or use a bundle of model.inputs: [image, text]"
            raise ToolkitError("the bundle takes texts alone, and no image", where="image", fix=fix)
        given = {"image": image or not self.takes_image, "text": text or not self.takes_text}
        missing = [name for name, there in given.items() if not there]
        if missing and not (self.takes_missing and len(missing) == 1):
            fix = f"give {' and '.join(missing)}"
            if self.takes_text and self.takes_image and len(missing) == 1:
                fix += ", or train with model.fusion.modality_dropout"
            raise ToolkitError(f"no {' and no '.join(missing)}", where="predict", fix=fix)

    def _no_image(self) -> Inputs:
        """Black at the network's size, which nothing reads."""
        height, width = self.preprocess.output_size or (1, 1)
        if self.kind == "image":
            return {"image": np.zeros((height, width, 3), np.uint8)}
        return {"pixel_values": np.zeros((3, height, width), np.float32)}


def graph_input(kind: str, preprocess: Preprocess, source: ImageSource) -> Inputs:
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
