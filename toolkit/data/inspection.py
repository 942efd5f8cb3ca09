"""Read images once, to hash and decode them, on all cores and in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from PIL import Image

from toolkit.data.brightness import Spread, spread_of, spread_of_samples
from toolkit.data.listing import Content, ListedImage, NoImage
from toolkit.data.value_ranges import Found
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.decode import IN_MEMORY, UnreadableImageError, decoding, explained, load, to_rgb
from toolkit.runtime.machine import usable_cores

CHUNK = 16
"""Images that a thread takes at once."""
REMEMBERED = 2_000
"""Images that a memory is asked for at once."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What reading one image showed: its content's hash, and why it can't be decoded if it can't."""

    sha256: str
    """Empty without an image."""
    size: tuple[int, int] | None = None
    """Width and height as stored."""
    mode: str | None = None
    error: str | None = None
    found: Found | None = None
    """The values, if they have more than 8 bits."""
    spread: Spread | None = None
    """Of the values, or of the grey levels."""
    perceptual: int | None = None
    """Hash of what it looks like, if asked for."""


Hasher = Callable[[Image.Image], int]
"""What it looks like as a number."""


def inspect_content(content: Content, look: Hasher | None = None) -> Inspected:
    """Hash an image and decode it fully; of a text without one there is nothing to be seen."""
    if isinstance(content, NoImage):
        return Inspected("")
    try:
        encoded = content.read()
    except OSError as error:
        return Inspected("", error=error.strerror or str(error))
    digest = hashlib.sha256(encoded).hexdigest()
    try:
        loaded = load(encoded, where=IN_MEMORY)
        if loaded.samples is None:
            with decoding(IN_MEMORY):
                pixels = to_rgb(loaded.image, grey=True)
            found, spread = None, spread_of(pixels)
        else:
            with explained(IN_MEMORY):
                found, spread = Found.of(loaded.samples), spread_of_samples(loaded.samples)
                pixels = loaded.samples.to_image((found.low, max(found.high, found.low + 1)))
        perceptual = look(pixels if loaded.turn is None else pixels.transpose(loaded.turn)) if look else None
    except UnreadableImageError as error:
        return Inspected(digest, error=error.reason)
    return Inspected(digest, loaded.size, loaded.mode, None, found, spread, perceptual)


class Memory(Protocol):
    """Knows what earlier inspections showed; :class:`toolkit.data.remembered.Remembered` does."""

    def stamps_of(self, contents: Sequence[Content]) -> list[str | None]:
        """What each image's file is known again by; None of one that can't be."""

    def known(self, names: Sequence[str], stamps: Sequence[str | None]) -> list[Inspected | None]:
        """What is remembered of images whose stamps are as they were."""

    def learn(self, rows: Sequence[tuple[str, str, Inspected]]) -> None:
        """Remember inspections by name and stamp."""


def inspect_items(
    items: Sequence[ListedImage],
    progress: Progress = SILENT,
    look: Hasher | None = None,
    memory: Memory | None = None,
) -> Iterator[Inspected]:
    """Inspect images on all usable cores, in order, a few ahead of what is asked for.

    Args:
        items: the images.
        progress: told how many are done.
        look: makes the perceptual hash.
        memory: of earlier inspections, which are not made again.

    Raises:
        ToolkitError: content that is not what its index promises.
    """
    inspections = _ahead(items, look) if memory is None else _with_memory(items, look, memory)
    for done, (item, inspected) in enumerate(zip(items, inspections, strict=True), 1):
        if item.sha256 and inspected.sha256 != item.sha256:
            what = "the shard's index promises other content (SHA-256) than lies there"
            shard = getattr(item.content, "path", item.path.parent)
            fix = f"copy the shard again, or write its index again: toolkit data index {shard}"
            raise ToolkitError(what, where=item.path, fix=fix)
        progress.done(done, len(items))
        yield inspected


def _with_memory(items: Iterable[ListedImage], look: Hasher | None, memory: Memory) -> Iterator[Inspected]:
    """Inspect what is not remembered, and remember it; some thousand images at a time."""
    remaining = iter(items)
    while chunk := list(islice(remaining, REMEMBERED)):
        names, stamps = [item.name for item in chunk], memory.stamps_of([item.content for item in chunk])
        known = memory.known(names, stamps)
        if look is not None:  # what was inspected without a look is looked at now
            known = [each if each and (each.perceptual is not None or each.error) else None for each in known]
        new = _ahead([item for item, seen in zip(chunk, known, strict=True) if seen is None], look)
        learned: list[tuple[str, str, Inspected]] = []
        for name, stamp, seen in zip(names, stamps, known, strict=True):
            inspected = next(new) if seen is None else seen
            if seen is None and stamp is not None:
                learned.append((name, stamp, inspected))
            yield inspected
        if learned:
            memory.learn(learned)


def _ahead(items: Iterable[ListedImage], look: Hasher | None) -> Iterator[Inspected]:
    cores, remaining = usable_cores(), iter(items)
    waiting: deque[Future[list[Inspected]]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        while True:
            while len(waiting) < 4 * cores and (chunk := [item.content for item in islice(remaining, CHUNK)]):
                waiting.append(pool.submit(_inspect_chunk, chunk, look))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:  # it may be a thread of the pool that collects what nobody reads on, and that can't wait for itself
        pool.shutdown(wait=False, cancel_futures=True)


def _inspect_chunk(contents: list[Content], look: Hasher | None) -> list[Inspected]:
    return [inspect_content(content, look) for content in contents]
