"""One writer a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.files import writing_to

LOCK = ".lock"


@contextmanager
def locked(
    folder: Path, *, what: str, wait: bool = False, on_wait: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) against other processes.

    Record locks (``lockf``) rather than ``flock``: a loader's workers don't inherit them, so a
    killed run's folder is free at once. They belong to the process: it must not take one twice.

    Args:
        folder: what is locked, by a file ``.lock`` in it.
        what: what another process would be doing there, for the error's text.
        wait: whether to wait for the other process instead of raising.
        on_wait: called once if there is something to wait for.

    Raises:
        ToolkitError: another process holds it.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                fix = "wait for it, or choose another folder"
                raise ToolkitError(f"{what} already", where=folder, fix=fix) from error
            on_wait()
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
