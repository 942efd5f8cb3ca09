"""Real inputs, many of them: a benchmark on one tensor measures what the caches keep."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError, read_encoded
from toolkit.runtime.examples import graph_input
from toolkit.runtime.golden import GOLDEN_TEXT
from toolkit.runtime.image_files import expand
from toolkit.runtime.inputs import (
    Array,
    Feed,
    Inputs,
    bytes_of,
    examples_in,
    part_of,
    places_by_shapes,
    stacked,
    windows,
)
from toolkit.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    from toolkit.runs.finished_run import Run

POOL = 256
"""Images in the pool, at least."""
BATCHES = 256
"""Most distinct batches of a size."""
MOST_BYTES = 512 << 20
"""Of the batches of one size; larger ones are drawn from fewer images."""
SEED = 0


@dataclass(frozen=True)
class Pool:
    """Encoded images, or texts in UTF-8 where a graph takes them alone, and the same as it takes them."""

    contents: list[bytes]
    groups: list[Feed]
    """Images of the same shapes together."""
    source: str
    """Where they come from, in words."""

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(map(examples_in, self.groups))

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest image as the graph takes it."""
        return max(bytes_of(group) // examples_in(group) for group in self.groups)

    def batches(self, batch_size: int) -> list[Feed]:
        """Distinct batches in a seeded order, each of one shape; groups of many images give more of them."""
        rng = np.random.default_rng(SEED)
        batches: list[Feed] = []
        largest = batch_size * self.largest_bytes
        for group in sorted(self.groups, key=examples_in, reverse=True)[: max(1, MOST_BYTES // largest)]:
            there = examples_in(group)
            share = max(1, BATCHES * there // self.images)
            size = max(1, bytes_of(group) // there * batch_size)
            count = max(1, min(share, -(-there // batch_size), MOST_BYTES // len(self.groups) // size))
            order = np.concatenate([rng.permutation(there) for _ in range(-(-count * batch_size // there))])
            starts = range(0, count * batch_size, batch_size)
            batches += [part_of(group, order[start : start + batch_size]) for start in starts]
        rng.shuffle(batches)  # type: ignore[arg-type]
        return batches

    def describe(self) -> dict[str, object]:
        """For ``latency.json``."""
        shapes = [list(next(iter(group.values())).shape[1:]) for group in self.groups]
        return {"images": self.images, "seed": SEED, "from": self.source, "shapes": shapes}


def pool_of(bundle: Bundle, kind: str, contents: Sequence[bytes], source: str) -> Pool:
    """Encoded images as the pool of a graph that takes ``kind``: ``image`` or ``pixel_values``.

    Where the graph takes texts, those of the golden images stand beside them in turns.
    """
    inputs: dict[int, Inputs] = {}
    held, reader, texts = 0, bundle.reader(kind), bundle.golden().texts
    for place, content in enumerate(contents):
        inputs[place] = reader.of_content(content, texts[place % len(texts)] if texts else None)
        held += bytes_of(inputs[place])
        if held > MOST_BYTES:  # photographs of 12 MP: fewer of them, rather than all of the memory
            break
    return Pool(
        list(contents)[: len(inputs)],
        [stacked(inputs[at] for at in places) for places in places_by_shapes(inputs)],
        source,
    )


def same_shape(kind: str, preprocess: Preprocess, contents: Iterable[bytes], most: int) -> Feed:
    """The first encoded images as a graph takes them, those of the most frequent shape in one batch.

    Args:
        kind: ``image`` or ``pixel_values``.
        preprocess: what stands between the two.
        contents: encoded images; no more are read than are looked at.
        most: images that are looked at, fewer where they are large.
    """
    inputs = next(windows((graph_input(kind, preprocess, content) for content in contents), most))
    return stacked(inputs[place] for place in max(places_by_shapes(dict(enumerate(inputs))), key=len))


def find_pool(bundle: Bundle, kind: str, run: Run | None, images: Path | None) -> Pool:
    """The pool of a graph that takes ``kind``; see :func:`contents_of`."""
    return pool_of(bundle, kind, *contents_of(bundle, run, images))


def contents_of(bundle: Bundle, run: Run | None, images: Path | None) -> tuple[list[bytes], str]:
    """Encoded images of a folder, else held out by the run, else the golden ones, and where they come from in words.

    Of a bundle that takes texts alone they are texts in UTF-8.

    Raises:
        ToolkitError: a folder of images for a bundle of texts; no images.
    """
    if images is not None and not bundle.takes_images:
        fix = "leave it out; held-out texts are taken with --run, the golden ones without"
        raise ToolkitError("the bundle takes texts alone, and no image", where="--images", fix=fix)
    if images is not None:
        return folder_contents(images, bundle.preprocess)
    if run is None:
        return golden_contents(bundle)
    held_out = run.held_out(POOL)
    if not bundle.takes_images:
        return [(example.text or "").encode() for example in held_out], run.images_from
    return enlarged(_within_memory(example.read() for example in held_out), run.images_from, bundle.preprocess)


def folder_contents(folder: Path, preprocess: Preprocess) -> tuple[list[bytes], str]:
    """Images of a folder, in a seeded order, and where they come from.

    Raises:
        UnreadableImageError: one can't be decoded; named here, since from here on they are bytes.
    """
    files = expand([folder])
    chosen = np.random.default_rng(SEED).permutation(len(files))[:POOL]

    def read(path: Path) -> bytes:
        content = read_encoded(path)
        try:
            preprocess.decoded(content)
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, where=path) from error
        return content

    return enlarged(_within_memory(read(files[place]) for place in chosen), str(folder), preprocess)


def _within_memory(contents: Iterable[bytes]) -> list[bytes]:
    """The first encoded images, until ``MOST_BYTES`` are held."""
    taken, held = list[bytes](), 0
    for content in contents:
        taken.append(content)
        held += len(content)
        if held > MOST_BYTES:
            break
    return taken


def golden_contents(bundle: Bundle) -> tuple[list[bytes], str]:
    """The golden images, enlarged to a pool; of a bundle of texts alone the golden texts in UTF-8, as they are.

    Raises:
        ToolkitError: the bundle holds none.
    """
    names = bundle.golden().names
    if not names:
        raise ToolkitError("the bundle holds no golden images", where=bundle.path, fix="export it again")
    originals = [bundle.read(f"golden/{name}") for name in names]
    if names[0].endswith(GOLDEN_TEXT):
        return originals, f"{len(originals)} golden texts of the bundle"
    return enlarged(originals, f"{len(originals)} golden images of the bundle", bundle.preprocess)


def enlarged(originals: Sequence[bytes], source: str, preprocess: Preprocess) -> tuple[list[bytes], str]:
    """Encoded images, mirrored and shifted until there are ``POOL`` of them: the pixels of photographs, no noise.

    Large photographs stay fewer: no more than ``MOST_BYTES`` are held.
    """
    rng = np.random.default_rng(SEED)
    contents = list(originals)
    held = sum(map(len, contents))
    while len(contents) < POOL and held < MOST_BYTES:
        original = originals[len(contents) % len(originals)]
        pixels = np.asarray(preprocess.decoded(original))
        pixels = np.roll(pixels, rng.integers(pixels.shape[:2]).tolist(), (0, 1))
        pixels = pixels[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
        contents.append(_encoded(np.ascontiguousarray(pixels), jpeg=original.startswith(b"\xff\xd8")))
        held += len(contents[-1])
    grown = len(contents) > len(originals)
    return contents, f"{source}, mirrored and shifted to {len(contents)}" if grown else source


def _encoded(pixels: Array, *, jpeg: bool) -> bytes:
    """An image file of the kind that the original was."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if jpeg else "PNG", quality=92)
    return file.getvalue()
