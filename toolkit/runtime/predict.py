"""Labels and probabilities for image files, from a bundle alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError, decode, images_below
from toolkit.runtime.session import Session


class Predictor:
    """A bundle in service: files in, labels and calibrated probabilities out."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle, self.session = bundle, session

    def __call__(self, paths: list[Path], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Yield one entry a path, in order.

        An entry holds ``path``, ``label`` and ``probabilities`` {label: probability}, or
        ``path`` and ``error`` for a file that can't be decoded.
        """
        for start in range(0, len(paths), batch_size):
            yield from self._batch(paths[start : start + batch_size])

    def _batch(self, paths: list[Path]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"path": str(path)} for path in paths]
        readable, pixel_values = [], []
        for path, entry in zip(paths, entries, strict=True):
            try:
                pixel_values.append(self.bundle.preprocess(decode(path, grey=True)))
                readable.append(entry)
            except UnreadableImageError as error:
                entry["error"] = error.reason
        if readable:
            _, probabilities = self.session.run(np.stack(pixel_values))
            for entry, row in zip(readable, probabilities, strict=True):
                entry["label"] = self.bundle.labels[int(row.argmax())]
                entry["probabilities"] = dict(zip(self.bundle.labels, map(float, row), strict=True))
        return entries


def expand(paths: list[Path]) -> list[Path]:
    """Files as given; a folder stands for the images below it, sorted.

    Raises:
        ToolkitError: a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        below = images_below(path)
        if not below:
            raise ToolkitError(
                "no images in the folder", where=path, fix="give image files or a folder that holds some"
            )
        files += below
    return files
