"""Read files that a user names: regular files alone, of a size that is known before a byte is read.

A pipe would wait for its writer, ``/dev/zero`` never ends, and a sparse file of 40 GB takes no space until it is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TextIO

MOST_SETTINGS = 64 << 20
"""Bytes of a file of settings or results, such as JSON or YAML; those that the toolkit writes have some kilobytes."""
LONGEST_LINE = 1 << 20
"""Characters of a line in a table or an index."""
KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def require_regular(path: Path) -> int:
    """The size of a regular file in bytes; for what a library opens by its name.

    Raises:
        OSError: not there, or something else than a regular file.
    """
    return _require(path.stat(), path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read bytes, and wait for nothing.

    Raises:
        OSError: it can't be opened, or is something else than a regular file.
    """
    require_regular(path)  # opening a device alone may have an effect
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path.open takes no opener; the caller closes it
    try:
        _require(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of up to ``most`` bytes.

    Raises:
        OSError: it can't be read, is larger, or is something else than a regular file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, over the limit of {most:,}", str(path))
        content = file.read(size + 1)
        if len(content) > size:
            raise OSError(errno.EAGAIN, "it grows while it is read", str(path))
        return content


def read_settings(path: Path) -> bytes:
    """The content of a file of up to :data:`MOST_SETTINGS` bytes.

    Raises:
        OSError: as :func:`read_regular`.
    """
    return read_regular(path, MOST_SETTINGS)


def bounded_lines(file: TextIO, longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of an open file, with their ends, one in memory at a time.

    Raises:
        ValueError: a line of more than ``longest`` characters.
    """
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise ValueError(f"line {number:,} has more than {longest:,} characters")
        yield line


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require(status: os.stat_result, path: Path) -> int:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for matches, name in KINDS if matches(status.st_mode)), "something else")
    raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
