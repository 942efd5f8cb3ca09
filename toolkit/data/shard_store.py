"""Shards of an object store, copied to this machine before they are read: each once, whole, known again by its version.

Reading them in any order, exact resume and every check are those of shards on a disk, since that is what they become.
A copy that was cut short is made again, one whose object changed in the store too; the others are left as they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.data.listing import ABOUT, named
from toolkit.data.remote import file_system, with_patience
from toolkit.data.shard_index import INDEX
from toolkit.data.shards import indexes_in, shards_in
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, sync, write_bytes
from toolkit.lock import TakenError, lock
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import DataConfig
from toolkit.runtime.image_files import reason_against

SHARD = ".tar"
AT_ONCE = 8
"""Objects that are copied side by side."""
LOOK_SECONDS = 0.5
"""Between two looks at whether another process still copies."""
VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
"""What file systems of fsspec call the version of an object; the first that one knows is taken."""


class StoredObject(BaseModel):
    """An object of the store: its name below the store's URL, its size, and what changes whenever its content does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    version: str


class Copies(BaseModel):
    """Which objects of which store the files of a folder are copies of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    objects: dict[str, StoredObject] = {}


def copy_shards(config: DataConfig, progress: Progress = SILENT) -> int:
    """Copy what ``data.path`` lacks of ``data.store``; return how many objects that were.

    One process of a machine copies, others of the same folder wait for it.

    Args:
        config: the recipe's ``data``; nothing is done without a store.
        progress: told how many megabytes are there.

    Raises:
        ToolkitError: the store can't be listed or read after several attempts, has no shards, or lacks some that
            lie here; no room; or the folder holds the copies of another store.
    """
    if config.store is None:
        return 0
    folder, url = config.path, config.store.rstrip("/")
    about = folder.with_name(f".{folder.name}.store")
    with _turn(about):
        copies = _read_copies(about, url)
        objects = _listed(url)
        _refuse_strangers(folder, objects, url)
        missing = [each for each in objects if not _is_copied(folder, each, copies)]
        _refuse_no_room(folder, sum(each.bytes for each in missing))
        total = sum(each.bytes for each in objects)
        done = total - sum(each.bytes for each in missing)
        for each in _copied(url, missing, folder):
            copies.objects[each.name] = each
            write_bytes(about / "copies.json", copies.model_dump_json(indent=2).encode())
            done += each.bytes
            progress.done(done // 10**6, total // 10**6)
    return len(missing)


@contextmanager
def _turn(about: Path) -> Iterator[None]:
    """Hold the folder of the copies' record; wait while another process does."""
    while True:
        try:
            held = lock(about, what="another process copies these shards")
            held.__enter__()
            break
        except TakenError:
            time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _read_copies(about: Path, url: str) -> Copies:
    try:
        copies = Copies.model_validate_json((about / "copies.json").read_bytes())
    except FileNotFoundError:
        return Copies(store=url)
    except (OSError, ValidationError) as error:
        fix = "remove this folder; what lies beside it is copied again"
        raise ToolkitError(f"damaged record of copies: {str(error).splitlines()[0]}", where=about, fix=fix) from error
    if copies.store != url:
        what = f"the copies here are of {copies.store}, and not of {url}"
        raise ToolkitError(what, where=about, fix="choose another data.path, or remove both folders")
    return copies


def _listed(url: str) -> list[StoredObject]:
    """The shards of a store, their indexes and what the data set says of itself, sorted by name."""
    system = file_system(url)

    def find() -> dict[str, dict[str, Any]]:
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = system.find(url, detail=True)
        return found

    try:
        found = with_patience(find)
    except OSError as error:
        raise ToolkitError(f"can't be listed: {error}", where=url, fix="check the URL and the network") from error
    root = str(system._strip_protocol(url)).rstrip("/")
    objects = []
    for path, info in sorted(found.items()):
        name = str(path).removeprefix(root).lstrip("/")
        parts = PurePosixPath(name).parts
        if len(parts) <= 2 and not any(map(reason_against, parts)) and _is_of_shards(name):
            version = next((info[key] for key in VERSIONS if info.get(key) is not None), "")
            objects.append(StoredObject(name=name, bytes=int(info["size"]), version=str(version)))
    if not any(each.name.endswith(SHARD) for each in objects):
        raise ToolkitError("no shard (.tar) lies there", where=url, fix="check data.store")
    return objects


def _is_of_shards(name: str) -> bool:
    return name.endswith((SHARD, SHARD + INDEX)) or name == ABOUT


def _refuse_strangers(folder: Path, objects: list[StoredObject], url: str) -> None:
    """Raise if a shard lies here that the store doesn't have: it would be trained on unseen."""
    known = {each.name for each in objects}
    here = [path.relative_to(folder).as_posix() for path in (*shards_in(folder), *indexes_in(folder))]
    strange = [name for name in here if name not in known]
    if strange:
        what = f"here lie shards that {url} doesn't have: {named(strange)}"
        raise ToolkitError(what, where=folder, fix="remove them, or choose another data.path")


def _is_copied(folder: Path, wanted: StoredObject, copies: Copies) -> bool:
    path = folder / wanted.name
    return copies.objects.get(wanted.name) == wanted and path.is_file() and path.stat().st_size == wanted.bytes


def _refuse_no_room(folder: Path, need: int) -> None:
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if need > free:
        what = f"the shards need {need / 1e9:.3g} GB more, but the disk has {free / 1e9:.3g} GB free"
        raise ToolkitError(what, where=folder, fix="set data.path to a larger disk")


def _copied(url: str, missing: list[StoredObject], folder: Path) -> Iterator[StoredObject]:
    """Copy objects, and give each as it is there; the first error is raised when those under way have ended."""
    failure: BaseException | None = None
    with ThreadPoolExecutor(AT_ONCE) as pool:
        copying = {pool.submit(_copy, url, each, folder): each for each in missing}
        for finished in as_completed(copying):
            if finished.cancelled():
                continue
            if finished.exception() is None:
                yield copying[finished]
            else:
                failure = failure or finished.exception()
                for other in copying:
                    other.cancel()
    if failure is not None:
        raise failure


def _copy(url: str, wanted: StoredObject, folder: Path) -> None:
    """Copy an object beside its place, and put it there when it is whole."""
    source, target = f"{url}/{wanted.name}", folder / wanted.name
    digest = hashlib.sha256(wanted.name.encode()).hexdigest()[:8]
    partial = target.with_name(f".{digest}.partial-{os.getpid()}")

    def read() -> None:
        file_system(url).get_file(source, str(partial))
        size = partial.stat().st_size
        if size != wanted.bytes:
            raise OSError(f"it ended after {size:,} of {wanted.bytes:,} bytes")

    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with_patience(read)
        sync(partial)
        partial.replace(target)
    except OSError as error:
        fix = "check the network, the store and the room here, and start again: what was copied stays"
        raise ToolkitError(f"can't be copied: {error}", where=source, fix=fix) from error
    finally:
        partial.unlink(missing_ok=True)
