"""What inspecting images showed, remembered beside the cache of this machine: a second start decodes nothing.

An image is known again by its file's path, size, times of change and inode: a file that was written since then has
another time of status change, whatever its modification time was set to. An image of which that is not certain, since
its file was younger than the clock is fine, is inspected again. Other versions of the toolkit or of Pillow begin anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import PIL

from toolkit import __version__
from toolkit.data.brightness import Spread
from toolkit.data.inspection import Inspected
from toolkit.data.listing import Content, WholeFile
from toolkit.data.shard_index import FilePart
from toolkit.data.value_ranges import Found
from toolkit.runtime.cache_folder import cache_folder

INSPECTED = "inspected"
"""The folder of inspections in this machine's cache."""
FORMAT = 2
"""Of what is remembered."""
SETTLED = 2.0
"""Seconds that a file must be older than its inspection: file systems' clocks are that coarse."""
CHUNK = 2_000
"""Images that are looked up, or written, at once."""
Stamp = str
"""Of an image's file: size, times of change in nanoseconds, inode, and the place in it."""


class Remembered:
    """Inspections of a data set's images, by name.

    It is a cache: where it can't be read or written, everything is inspected, and nothing fails.

    Args:
        root: of the data set.
        settled: seconds that a file must be older than its inspection.
    """

    def __init__(self, root: Path, settled: float = SETTLED) -> None:
        self._settled = settled
        about = f"{FORMAT} {__version__} {PIL.__version__}".encode()
        name = hashlib.sha256(about + os.fsencode(root.absolute())).hexdigest()[:32]
        self._path = cache_folder(INSPECTED) / f"{name}.sqlite"
        self._stamps: dict[str, tuple[int, ...]] = {}
        """Of files that hold many images."""

    def stamps_of(self, contents: Sequence[Content]) -> list[Stamp | None]:
        """The stamp of each image's file; None of what lies in no file, or is not settled."""
        latest = time.time_ns() - int(self._settled * 1e9)
        return [self._stamp(content, latest) for content in contents]

    def known(self, names: Sequence[str], stamps: Sequence[Stamp | None]) -> list[Inspected | None]:
        """What is remembered of images whose files are as they were; None of the others."""
        found: list[Inspected | None] = []
        with suppress(sqlite3.Error, OSError, ValueError, KeyError, TypeError):
            if self._path.is_file():
                with closing(sqlite3.connect(self._path, timeout=5)) as base:
                    for name, stamp in zip(names, stamps, strict=True):
                        found.append(_looked_up(base, name, stamp))
        return found + [None] * (len(names) - len(found))

    def learn(self, rows: Sequence[tuple[str, Stamp, Inspected]]) -> None:
        """Remember inspections."""
        with suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=5)) as base, base:
                _begin(base)
                written = [(os.fsencode(name), stamp, _as_json(inspected)) for name, stamp, inspected in rows]
                base.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", written)

    def _stamp(self, content: Content, latest: int) -> Stamp | None:
        if isinstance(content, WholeFile):
            numbers, part = _status(content.name), ""
        elif isinstance(content, FilePart):
            path = str(content.path)
            if path not in self._stamps:
                self._stamps[path] = _status(path) or ()
            numbers, part = self._stamps[path] or None, f" {content.offset} {content.length}"
        else:
            return None
        if numbers is None or max(numbers[1:3]) > latest:
            return None
        return " ".join(map(str, numbers)) + part


def _status(name: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(name)  # noqa: PTH116 - millions of names, which are no paths yet
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _begin(base: sqlite3.Connection) -> None:
    base.execute(
        "CREATE TABLE IF NOT EXISTS images (name BLOB PRIMARY KEY, stamp TEXT NOT NULL, seen TEXT NOT NULL) "
        "WITHOUT ROWID"
    )


def _looked_up(base: sqlite3.Connection, name: str, stamp: Stamp | None) -> Inspected | None:
    if stamp is None:
        return None
    row = base.execute("SELECT stamp, seen FROM images WHERE name = ?", (os.fsencode(name),)).fetchone()
    return _of_json(row[1]) if row is not None and row[0] == stamp else None


def _as_json(inspected: Inspected) -> str:
    found, spread = inspected.found, inspected.spread
    values: list[Any] = [inspected.sha256, inspected.size, inspected.mode, inspected.error, inspected.perceptual]
    values.append(None if spread is None else [*spread.values, spread.plain])
    if found is not None:
        values.append(
            [found.kind, found.whole_numbers, found.low, found.high, found.stated, found.fixed, found.inverted]
        )
    return json.dumps(values, separators=(",", ":"))


def _of_json(text: str) -> Inspected:
    sha256, size, mode, error, perceptual, spread, *found = json.loads(text)
    seen = None
    if found:
        kind, whole_numbers, low, high, stated, fixed, inverted = found[0]
        seen = Found(kind, whole_numbers, low, high, None if stated is None else tuple(stated), fixed, inverted)
    return Inspected(
        sha256,
        None if size is None else (size[0], size[1]),
        mode,
        error,
        seen,
        None if spread is None else Spread(tuple(spread[:-1]), spread[-1]),
        perceptual,
    )
