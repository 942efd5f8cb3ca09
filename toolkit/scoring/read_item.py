"""An item's image and text, with patience for stores that err."""

from __future__ import annotations

from threading import Lock

from toolkit.data.remote import with_patience
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.examples import ImageText
from toolkit.scoring.inputs import Item


class Retries:
    """Counts further attempts to read, from many threads."""

    def __init__(self) -> None:
        self._count, self._lock = 0, Lock()

    def add(self) -> None:
        """One more."""
        with self._lock:
            self._count += 1

    def taken(self) -> int:
        """How many since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count


def read_item(item: Item, retries: Retries, *, takes_image: bool) -> ImageText:
    """The encoded image, where there is one and the graph takes images, and the text.

    Raises:
        UnreadableImageError: it can't be read.
    """
    if item.error:
        raise UnreadableImageError(item.error, where=item.path)
    if not takes_image or not item.path:
        return ImageText(None, item.text)
    try:
        return ImageText(with_patience(item.read, retries.add), item.text)
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error), where=item.path) from error
