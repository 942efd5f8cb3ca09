"""Paths and URLs: which lie on this machine's disks, and the file systems of the others (fsspec)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from toolkit.errors import ToolkitError

ATTEMPTS = 4
"""To read from a store, before an image counts as unreadable."""
FIRST_WAIT = 0.25
"""Seconds before the second attempt; each next one waits twice as long."""
FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What no further attempt mends."""
CLIENTS = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "requests", "urllib3"})
"""Packages below fsspec's file systems whose own errors, such as of a refused connection, are no :class:`OSError`."""
T = TypeVar("T")


def is_url(place: str) -> bool:
    """Whether a place is named with a protocol, such as ``s3://``."""
    return "://" in place


def local_path(place: str) -> Path | None:
    """A path on this machine's disks, also of ``file://``; None for what lies elsewhere."""
    if place.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(place.removeprefix("file://"))))
    return None if is_url(place) else Path(place)


def absolute(place: str) -> str:
    """The same place from whatever folder a job goes on: a URL, or an absolute path, which may hold wildcards."""
    path = local_path(place)
    return place if path is None else os.path.abspath(path)  # noqa: PTH100 - resolves no links


@cache
def _file_system(protocol: str) -> Any:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[data]"'
        raise ToolkitError("URLs need fsspec, which is not installed", where=f"{protocol}://", fix=fix) from error
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        fix = "install what it names, or give a path"
        raise ToolkitError(f"no such file system: {reason}", where=f"{protocol}://", fix=fix) from error


def file_system(url: str) -> Any:
    """The file system that a URL is of, as its environment configures it (``AWS_...``, ``FSSPEC_...``).

    Raises:
        ToolkitError: a protocol that is unknown, or whose package is not installed.
    """
    return _file_system(url.partition("://")[0])


def with_patience(read: Callable[[], T], retried: Callable[[], object] = lambda: None) -> T:
    """What a call gives, after a few attempts if need be.

    Args:
        read: may raise :class:`OSError`, or what the client of a store raises.
        retried: called before each further attempt.

    Raises:
        OSError: of the last attempt, or what no further one mends.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return _read(read)
        except FOR_GOOD:
            raise
        except OSError:
            retried()
            time.sleep(FIRST_WAIT * 2**attempt)
    return _read(read)


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise OSError(" ".join(str(error).split())) from error
