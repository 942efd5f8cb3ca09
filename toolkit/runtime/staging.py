"""Changes to a bundle that happen whole or not at all, whatever interrupts them.

The next state of a bundle is built in ``.staging/bundle`` inside it: every file, those that stay as
hard links. Renaming ``.staging`` to ``.staged`` decides: before, the bundle is the old one and the
rest is rubbish; after, it is the new one, and whoever opens it next finishes what is left to move
(:func:`settle`). A lock in the folder tells a writer at work from one that died.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, sync
from toolkit.runtime.manifest import MANIFEST, SIGNATURE, STAGED, STAGING, folder_entries, read_manifest

LOCK, CONTENT = "lock", "bundle"
PATIENCE = 60.0
"""Seconds to wait for another process that changes the same bundle, which takes it far less than one."""


def require_writable(bundle: Path) -> None:
    """Find out, before anything is measured, whether a bundle can be changed.

    Raises:
        ToolkitError: the folder, or one in it, is read-only or somebody else's.
    """
    for folder in (bundle, *(entry for entry in bundle.iterdir() if entry.is_dir() and not entry.is_symlink())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            what = f"the bundle can't be changed: {error.strerror or error}"
            fix = "give --out FILE to write the outcome elsewhere, or copy the bundle to a folder of yours"
            raise ToolkitError(what, where=folder, fix=fix) from error


@contextmanager
def changing(bundle: Path, *, empty: bool = False) -> Iterator[Path]:
    """Build a bundle's next state; it takes the old one's place at once when the block ends without an error.

    Files of the folder that is yielded may share their content with the bundle's: replace them
    (:func:`toolkit.files.write_bytes`), never write into them.

    Args:
        bundle: the folder; any folder that :func:`toolkit.files.refuse_existing` lets be replaced, if ``empty``.
        empty: start from nothing rather than from what the bundle holds; what isn't made again is removed.

    Yields:
        The folder of the next state, which must have its manifest in the end.

    Raises:
        ToolkitError: another process changes the bundle, or it can't be written.
    """
    with explain_os_errors(bundle), _staging(bundle) as staging:
        try:
            for name, fault in folder_entries(bundle)[1].items():
                raise ToolkitError(f"a bundle can't hold {name!r}: it {fault}", where=bundle, fix="remove it")
            content = staging / CONTENT
            if empty:
                content.mkdir()
            else:
                _link(bundle, content)
            yield content
            for path in (*(path for path in content.rglob("*")), content, staging):
                if not path.is_symlink():
                    sync(path)
            staging.rename(bundle / STAGED)
        except BaseException:
            _remove(staging)
            raise
        sync(bundle)
        _take(bundle)


def settle(bundle: Path) -> None:
    """Finish a change that was decided when its process died, and clear up one that was not.

    Raises:
        ToolkitError: a change is half done and this process may not finish it.
    """
    while _is_folder(bundle / STAGED):
        try:
            with ExitStack() as held:
                try:
                    held.enter_context(_locked(bundle / STAGED, PATIENCE))
                except FileNotFoundError:  # its own process has finished it, and another may have decided on one since
                    continue
                _take(bundle)
        except OSError as error:
            if _is_folder(bundle / STAGED):
                what = f"a change of the bundle was interrupted, and can't be finished here: {error.strerror or error}"
                raise ToolkitError(what, where=bundle, fix="run toolkit verify on it once, as its owner") from error
    if _is_folder(bundle / STAGING):
        with suppress(OSError, _TakenError), _locked(bundle / STAGING, 0):
            _remove(bundle / STAGING)


class _TakenError(ToolkitError):
    """Another process is at work."""


@contextmanager
def _staging(bundle: Path) -> Iterator[Path]:
    """An empty ``.staging`` of this process alone, to be decided on or removed."""
    while True:
        settle(bundle)
        (bundle / STAGING).mkdir(exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(_locked(bundle / STAGING, PATIENCE))
            except FileNotFoundError:
                continue
            if _is_folder(bundle / STAGED):  # the one who had the lock before died after all
                continue
            shutil.rmtree(bundle / STAGING / CONTENT, ignore_errors=True)
            yield bundle / STAGING
            return


@contextmanager
def _locked(folder: Path, patience: float) -> Iterator[None]:
    """Hold a folder's lock.

    Raises:
        FileNotFoundError: whoever had it before has finished with the folder.
    """
    folder.stat()
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        what = "another process is changing the bundle"
        raise _TakenError(what, where=folder.parent, fix="start again when it has finished") from error
    try:
        (folder / LOCK).stat()
        yield
    finally:
        lock.release()


def _link(bundle: Path, target: Path) -> None:
    """Every file of a bundle in another folder, as hard links where the file system has them."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(
        bundle, target, copy_function=link, ignore=lambda folder, _: (STAGING,) if Path(folder) == bundle else ()
    )


def _take(bundle: Path) -> None:
    """Move what was decided on into place, then remove what is not part of it; can be done again at any point."""
    staged = bundle / STAGED
    content = staged / CONTENT
    if content.is_dir():
        undecided = (content / MANIFEST).is_file()
        manifest, _ = read_manifest(content if undecided else bundle)
        files, others = folder_entries(content)
        _, in_the_way = folder_entries(bundle)
        for name, fault in (others | in_the_way).items():
            raise ToolkitError(f"a change can't be finished: {name} {fault}", where=bundle, fix="copy the bundle again")
        for name in sorted(files & set(manifest.files)):
            _move(content / name, bundle / name)
        if undecided:
            if not (content / SIGNATURE).is_file():
                (bundle / SIGNATURE).unlink(missing_ok=True)
            _move(content / MANIFEST, bundle / MANIFEST)
        if (content / SIGNATURE).is_file():
            _move(content / SIGNATURE, bundle / SIGNATURE)
        for name in folder_entries(bundle)[0] - set(manifest.files):
            (bundle / name).unlink(missing_ok=True)
    _remove(staged)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        source.replace(target)


def _remove(folder: Path) -> None:
    """Remove a folder of this module, its lock last; whoever locks it meanwhile removes what is left."""
    for entry in folder.iterdir():
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (folder / LOCK).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        if _is_folder(folder) and not (folder / LOCK).exists():
            raise


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
