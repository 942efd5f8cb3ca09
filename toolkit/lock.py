"""One writer a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


class TakenError(ToolkitError):
    """Another process holds the lock."""


@contextmanager
def lock(folder: Path, *, what: str) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) against other processes.

    Record locks (``lockf``) rather than ``flock``, which filelock takes where there are no others: a loader's
    workers don't inherit them, so a killed run's folder is free at once. They belong to the process: it must
    not take one twice.

    Args:
        folder: what is locked, by a file ``.lock`` in it.
        what: what another process would be doing there, for the error's text.

    Raises:
        TakenError: another process holds it.
        ToolkitError: nothing can be written or locked here.
    """
    with ExitStack() as held:
        try:
            with explain_os_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(folder / LOCK, timeout=0) if fcntl is None else _RecordLock(folder / LOCK)
            held.enter_context(lock)
        except (BlockingIOError, PermissionError, filelock.Timeout) as error:
            raise TakenError(f"{what} already", where=folder, fix="wait for it, or choose another folder") from error
        except OSError as error:
            raise ToolkitError(
                f"this file system can't lock files ({error.strerror}), so two runs could write here at once",
                where=folder,
                fix="choose a folder on another file system, or have it mounted with locks",
            ) from error
        yield


class _RecordLock:
    """Locks a file while it is entered.

    Raises:
        OSError: another process holds it, or the file can't be written or locked.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> None:
        try:
            if sys.platform != "win32":
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise

    def __exit__(self, *ending: object) -> None:
        self.file.close()
