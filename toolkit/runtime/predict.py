"""Labels and probabilities for image files, from a bundle alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.image_files import FoundImages, images_below, in_words
from toolkit.runtime.inputs import Example, places_by_shapes, stacked, windows
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session
from toolkit.text import path_text

MOST_CLASSES, FEW = 100, 10


class Predictor:
    """A bundle in service: files in, labels and calibrated probabilities out."""

    def __init__(self, bundle: Bundle, session: Session, top_k: int | None = None) -> None:
        """Serve a bundle.

        Args:
            bundle: that is served.
            session: of one of its graphs.
            top_k: likeliest classes that an entry gives the probabilities of, the likeliest first; all in the
                bundle's order if None.
        """
        self.bundle, self.session, self.top_k = bundle, session, top_k

    def __call__(self, paths: list[Path], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Yield one entry a path, in order; up to ``batch_size`` images a run, fewer where they are large.

        An entry holds ``path``, ``label`` and ``probabilities`` {label: probability}, or
        ``path`` and ``error`` for a file that can't be decoded.
        """
        place = 0
        for window in windows(map(self._read, paths), batch_size):
            yield from self._entries(paths[place : place + len(window)], window)
            place += len(window)

    def _read(self, path: Path) -> Example | UnreadableImageError:
        try:
            return graph_input(self.session.input, self.bundle.preprocess, path)
        except UnreadableImageError as error:
            return error

    def _entries(self, paths: list[Path], window: list[Example | UnreadableImageError]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"path": path_text(path)} for path in paths]
        inputs: dict[int, Example] = {}
        for place, read in enumerate(window):
            if isinstance(read, UnreadableImageError):
                entries[place]["error"] = read.reason
            else:
                inputs[place] = read
        for places in places_by_shapes(inputs):
            batch = stacked(inputs[place] for place in places)
            outputs = self.session.run_batches(batch, self.session.largest_batch or len(places))
            for place, row in zip(places, outputs["probabilities"], strict=True):
                if not np.isfinite(row).all():
                    entries[place]["error"] = "the graph gives probabilities that are no numbers (NaN) for it"
                    continue
                entries[place]["label"] = self.bundle.labels[int(row.argmax())]
                entries[place]["probabilities"] = self._named(row)
        return entries

    def _named(self, row: Float32) -> dict[str, float]:
        """Probabilities [classes] by label."""
        labels = self.bundle.labels
        if self.top_k is None or self.top_k >= len(labels):
            return dict(zip(labels, map(float, row), strict=True))
        return {labels[index]: float(row[index]) for index in np.argsort(-row, kind="stable")[: self.top_k]}


def default_top_k(classes: int) -> int | None:
    """All classes, of more than 100 the ten likeliest: each of 1,000 would be 40 kB an image."""
    return None if classes <= MOST_CLASSES else FEW


def graph_input(kind: str, preprocess: Preprocess, source: Path | bytes) -> Example:
    """One image as a graph takes it, by the name of its input, from its encoded file on.

    Args:
        kind: ``image`` or ``pixel_values``; see :attr:`toolkit.runtime.session.Session.input`.
        preprocess: what stands between an image and ``pixel_values``.
        source: the file, or its content.

    Raises:
        UnreadableImageError: it can't be decoded.
    """
    if kind == "image":
        return {kind: np.asarray(preprocess.decoded(source))}
    return {kind: preprocess(preprocess.decoded(source, grey=True))}


def expand(paths: list[Path]) -> list[Path]:
    """:func:`find_images` without what is left out."""
    return [Path(name) for name in find_images(paths).names]


def find_images(paths: list[Path]) -> FoundImages:
    """Files as given; a folder stands for the images below it, sorted, and what else lies there is counted.

    Raises:
        ToolkitError: a folder without images, or one that can't be listed.
    """
    files, left_out = list[str](), Counter[str]()
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on names that are too long
            files.append(str(path))
            continue
        try:
            below = images_below(path)
        except OSError as error:
            what = f"can't list the folder: {error.strerror or error}"
            raise ToolkitError(what, where=error.filename or path, fix="check its permissions") from error
        if not below.names:
            others = f"; left out: {in_words(below.left_out)}" if below.left_out else ""
            fix = "give image files or a folder that holds some"
            raise ToolkitError(f"no images in the folder{others}", where=path, fix=fix)
        files += below.names
        left_out += below.left_out
    return FoundImages(files, left_out)
