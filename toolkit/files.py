"""Files that are whole or not there: atomic writes, staged folders, hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.regular_files import open_regular
from toolkit.strict_json import as_utf8
from toolkit.text import is_utf8

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What only a write meets."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.partial-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, with keys in the order given; NaN is refused.

    Bytes of a name that are no UTF-8 are escaped; :func:`toolkit.text.path_text` keeps which file is meant.
    """
    write_bytes(path, (json.dumps(as_utf8(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def explain_os_errors(target: Path) -> Iterator[None]:
    """Turn an unusable path, missing permission or full disk into an error that says so."""
    try:
        yield
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> ToolkitError:
    what = f"can't write here: {error.strerror or error}"
    return ToolkitError(what, where=target, fix="choose another path, or check its permissions and space")


@contextmanager
def room_for(target: Path) -> Iterator[None]:
    """Say what a full disk was to hold, whichever write of many met it; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise _unwritable(target, error) from error


@contextmanager
def staged_folder(
    target: Path, *, what: str, marker: str, replace: bool = False, durable: bool = False
) -> Iterator[Path]:
    """Build a folder beside ``target`` and rename it into place; on an error nothing is left.

    A process that is killed in between leaves a hidden folder, which :func:`recover_interrupted_writes` clears up.

    Args:
        target: where the folder shall be.
        what: what the folder is, for the error's text.
        marker: the file by which a folder of this kind is known; only such a one is replaced.
        replace: whether a folder that is already there may be replaced.
        durable: whether all of it shall be on the disk before it is renamed, in case the power fails.

    Raises:
        ToolkitError: ``target`` is taken (see :func:`refuse_existing`), or the disk is full.
    """
    target = target.absolute()
    refuse_existing(target, what=what, marker=marker, replace=replace)
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
        stage.chmod(0o755)
    name, _, unique = stage.name.rpartition(".partial-")
    old = stage.with_name(f"{name}.old-{unique}")
    try:
        with room_for(target):
            yield stage
        if durable:
            for path in (*(file for file in stage.rglob("*") if file.is_file()), stage):
                sync(path)
        if replace and target.exists():
            target.rename(old)
        try:
            stage.rename(target)
        except OSError:  # another process was faster
            refuse_existing(target, what=what, marker=marker)
            raise
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(stage, ignore_errors=True)
        raise
    if durable:
        sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    if sys.platform == "win32" and path.is_dir():  # Windows opens no folders, and writes their entries as it renames
        return
    handle = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def recover_interrupted_writes(folder: Path) -> None:
    """Clear up what killed processes left in a folder that nobody else writes into.

    Half-written files and folders go; a folder that was moved aside to be replaced comes back
    if its successor never took its place.
    """
    for old in sorted(folder.glob(".*.old-*"), key=lambda path: path.lstat().st_mtime, reverse=True):
        target = old.with_name(old.name[1:].rpartition(".old-")[0])
        if not target.exists():
            old.rename(target)
    for left in (*folder.glob(".*.old-*"), *folder.glob(".*.partial-*")):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def refuse_existing(target: Path, *, what: str, marker: str, replace: bool = False) -> None:
    """Raise unless ``target`` is free, an empty folder, or one of its kind that may be replaced.

    Raises:
        ToolkitError: it is not, no file can have such a name, or its path is no UTF-8, as libraries want it.
    """
    if not is_utf8(str(target.absolute())):
        what = "a path to write to must be UTF-8, and this one is not"
        raise ToolkitError(what, where=target.absolute(), fix="choose another path")
    with explain_os_errors(target):
        there = target.exists()
    if target.is_symlink() and not there:
        raise ToolkitError("a link is there that leads nowhere", where=target, fix="remove it, or choose another path")
    if not there or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / marker).is_file():
        raise ToolkitError(f"something that is no {what} is there already", where=target, fix="choose another path")
    if not replace:
        raise ToolkitError(f"a {what} is there already", where=target, fix="choose another path, or pass --force")
