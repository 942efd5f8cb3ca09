"""One image of an opened data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from toolkit.data.listing import Content, NoImage
from toolkit.data.target import Label
from toolkit.data.text_picture import text_picture
from toolkit.data.texts import sample_hash
from toolkit.runtime.decode import UnreadableImageError, decode
from toolkit.runtime.examples import ExampleReader, ImageText
from toolkit.runtime.inputs import Inputs
from toolkit.runtime.value_range import Range

UNLABELLED = -1
"""The label of an image that nobody has labelled."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image with its label, its content's SHA-256 and, where the data has texts, its text."""

    path: Path
    """Where it lies, and what messages call it; within a shard or a table, a path below it."""
    label: Label
    """Place among the classes, or :data:`UNLABELLED`; or what else is known of it."""
    content: Content
    sha256: str = ""
    """Of the image alone; empty for a text without one."""
    group: str = ""
    value_range: Range | None = None
    """What black and white are, if it has more than 8 bits."""
    text: str | None = None
    """To the character as the data has it; None for an image alone."""

    @property
    def has_image(self) -> bool:
        """Whether it is more than a text."""
        return not isinstance(self.content, NoImage)

    @property
    def identity(self) -> str:
        """SHA-256 of all it consists of: the image's where that is all."""
        return sample_hash(self.sha256, self.text)

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: it can't be read any more.
        """
        try:
            return self.content.read()
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error), where=self.path) from error

    def taken_by(self, reader: ExampleReader) -> ImageText:
        """What a graph takes of it: the encoded image, the text, or both.

        Raises:
            UnreadableImageError: the image can't be read any more.
        """
        return ImageText(self.read() if reader.takes_image else None, self.text if reader.takes_text else None)

    def inputs_for(self, reader: ExampleReader) -> Inputs:
        """What a graph computes with; an image that can't be decoded is named.

        Raises:
            UnreadableImageError: it can't be read, or not decoded.
            ToolkitError: what the reader raises.
        """
        try:
            return reader(self.taken_by(reader))
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, where=self.path) from error

    def decode(self, *, grey: bool = False) -> Image.Image:
        """The image's upright pixels; see :func:`toolkit.runtime.decode.decode`."""
        return decode(self.read(), where=self.path, grey=grey, value_range=self.value_range)

    def picture(self) -> Image.Image:
        """What a person is shown of it: its pixels, or of a text without an image the text."""
        return self.decode() if self.has_image else text_picture(self.text or "")
