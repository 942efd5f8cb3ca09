"""One writer a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.files import writing_to

LOCK = ".lock"


class TakenError(ToolkitError):
    """Another process holds the lock."""


@contextmanager
def locked(folder: Path, *, what: str) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) against other processes.

    Record locks (``lockf``) rather than ``flock``: a loader's workers don't inherit them, so a
    killed run's folder is free at once. They belong to the process: it must not take one twice.

    Args:
        folder: what is locked, by a file ``.lock`` in it.
        what: what another process would be doing there, for the error's text.

    Raises:
        TakenError: another process holds it.
        ToolkitError: nothing can be written or locked here.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TakenError(f"{what} already", where=folder, fix="wait for it, or choose another folder") from error
        except OSError as error:
            raise ToolkitError(
                f"this file system can't lock files ({error.strerror}), so two runs could write here at once",
                where=folder,
                fix="choose a folder on another file system, or have it mounted with locks",
            ) from error
        yield
