"""What is to be scored: a folder, a glob, a manifest or shards, on a disk or behind a URL, as a list of items."""

from __future__ import annotations

import glob
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from toolkit.data.manifest import EXTENSIONS
from toolkit.data.pairs import read_pairs
from toolkit.data.remote import file_system, is_url, local_path, with_patience
from toolkit.errors import ToolkitError
from toolkit.regular_files import open_regular, read_regular
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import MAX_BYTES
from toolkit.runtime.image_files import find_images, has_image_suffix, reason_against
from toolkit.text import path_text

SHARD = ".tar"
WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Item:
    """One image, one text, or both, in the order of the list."""

    path: str
    """What the row is called: a path, a URL, or a member of a shard below the shard's; empty for a text alone."""
    file: str = ""
    """The file that holds it, where ``path`` is not its name."""
    offset: int = 0
    length: int = -1
    """Bytes in the file; all of it if below zero."""
    text: str | None = None
    error: str = ""
    """Why there is nothing to read, if that was seen while listing."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: it can't be read.
        """
        place = self.file or self.path
        path = local_path(place)
        if path is None:
            return _from_store(place, self.offset, self.length)
        if self.length < 0:
            return read_regular(path, MAX_BYTES)
        with open_regular(path) as file:
            file.seek(self.offset)
            content = file.read(self.length)
        return _whole(content, self.length)


def _from_store(url: str, offset: int, length: int) -> bytes:
    system = file_system(url)
    if length < 0:
        if system.size(url) > MAX_BYTES:
            raise OSError(f"over the limit of {MAX_BYTES:,} bytes")
        content: bytes = system.cat_file(url)
        return content
    return _whole(system.cat_file(url, start=offset, end=offset + length), length)


def _whole(content: bytes, length: int) -> bytes:
    if len(content) != length:
        raise OSError("the shard ends before the image does")
    return content


@dataclass(frozen=True)
class Columns:
    """What a manifest's columns are called; None as in the bundle's recipe."""

    path: str | None = None
    text: str | None = None


AS_TRAINED = Columns()


def items_of(place: str, bundle: Bundle, columns: Columns = AS_TRAINED) -> Iterator[Item]:
    """Everything to be scored, in an order that depends on names alone.

    Args:
        place: a folder (of images at any depth, or of shards), a glob, a manifest (CSV, TSV, Parquet) or a shard.
        bundle: says whether there are texts.
        columns: of a manifest.

    Raises:
        ToolkitError: nothing there, or a manifest that lacks what the bundle takes.
    """
    shown = place if is_url(place) and local_path(place) is None else str(local_path(place))
    if WILD & set(PurePosixPath(shown).name) or "**" in shown:
        names = _matches(shown)
        if not names:
            raise ToolkitError("nothing fits", where=shown, fix="check it; quote it, so that the shell leaves it alone")
        yield from _of_files(names)
    elif PurePosixPath(shown).suffix.lower() in EXTENSIONS:
        yield from _of_manifest(shown, bundle, columns)
    elif PurePosixPath(shown).suffix.lower() == SHARD:
        yield from _of_shard(shown)
    elif is_url(shown):
        yield from _of_files(_below(shown))
    else:
        yield from _of_folder(Path(shown))


def _of_folder(folder: Path) -> Iterator[Item]:
    if not folder.exists():
        raise ToolkitError("there is no such file or folder", where=folder, fix="check the path")
    if folder.is_file():
        yield Item(path_text(folder))
        return
    shards = sorted(path for path in folder.rglob(f"*{SHARD}") if not any(map(reason_against, path.parts)))
    if shards:
        for shard in shards:
            yield from _of_shard(str(shard))
        return
    yield from (Item(path_text(name)) for name in find_images([folder]).names)


def _matches(pattern: str) -> list[str]:
    if not is_url(pattern):
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        return sorted(name for name in found if Path(name).is_file())
    system = file_system(pattern)
    return sorted(system.unstrip_protocol(name) for name in system.glob(pattern) if system.isfile(name))


def _below(url: str) -> list[str]:
    system = file_system(url)
    try:
        names = [system.unstrip_protocol(name) for name in sorted(with_patience(lambda: system.find(url)))]
    except OSError as error:
        raise ToolkitError(f"can't be listed: {error}", where=url, fix="check the URL and the network") from error
    found = [name for name in names if name.endswith(SHARD)] or [name for name in names if has_image_suffix(name)]
    if not found:
        raise ToolkitError("no image and no shard lies there", where=url, fix="check the URL")
    return found


def _of_files(names: list[str]) -> Iterator[Item]:
    for name in names:
        if name.endswith(SHARD):
            yield from _of_shard(name)
        else:
            yield Item(path_text(name))


def _of_manifest(place: str, bundle: Bundle, columns: Columns) -> Iterator[Item]:
    trained = (bundle.manifest.provenance.get("recipe") or {}).get("data") or {}
    known = trained.get("columns") or {}
    path_column = columns.path or known.get("path") or "path" if bundle.takes_images else None
    text_column = columns.text or known.get("text") or "text" if bundle.tokenizer is not None else None
    with tempfile.TemporaryDirectory(prefix="clip-toolkit-") as folder:
        manifest = Path(place)
        if is_url(place):
            manifest = Path(folder) / PurePosixPath(place).name
            try:
                manifest.write_bytes(file_system(place).cat_file(place))
            except OSError as error:
                raise ToolkitError(f"can't be read: {error}", where=place, fix="check the URL") from error
        pairs = read_pairs(
            manifest, path_column=path_column, text_column=text_column, allow_missing=bundle.takes_missing
        )
        base = f"{place.rpartition('/')[0]}/" if is_url(place) else ""
        for pair in pairs:
            if pair.path is None:
                yield Item("", text=pair.text)
            elif base:
                name = pair.path.relative_to(folder).as_posix() if pair.path.is_relative_to(folder) else str(pair.path)
                yield Item(f"{base}{name}", text=pair.text)
            else:
                yield Item(path_text(pair.path), text=pair.text)


def _of_shard(shard: str) -> Iterator[Item]:
    """The images of a shard in its order; where it is cut off, an item that says so."""
    try:
        with _opened(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = file.seek(0, 2)
            file.seek(0)
            for member in tar:
                hidden = any(map(reason_against, PurePosixPath(member.name).parts))
                if not member.isfile() or hidden or not has_image_suffix(member.name):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it ends in the middle of a member")
                path = f"{path_text(shard)}/{member.name}"
                yield Item(path, path_text(shard), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        yield Item(path_text(shard), error=f"damaged shard: {error}; what stands behind is not scored")


def _opened(shard: str) -> IO[bytes]:
    if not is_url(shard):
        return open_regular(Path(shard))
    file: IO[bytes] = file_system(shard).open(shard, "rb")
    return file
