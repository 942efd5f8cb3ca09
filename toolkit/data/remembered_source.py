"""What opening a data set gave, remembered beside the cache of this machine: a second start lists and splits nothing.

The record holds for the same settings, versions and files: every file that lies there is known again by its size, its
times of change and its inode, and one that comes, goes or changes has the data set opened anew. What can't be told so,
such as a table of Hugging Face's whose images lie elsewhere, or a file younger than the clock is fine, is not recorded.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict

from toolkit import __version__
from toolkit.data.listing import ABOUT, ListedImage, WholeFile
from toolkit.data.remembered import SETTLED
from toolkit.data.samples import Contents, Samples, Strings
from toolkit.data.shard_index import index_of
from toolkit.files import write_bytes
from toolkit.recipe.data import DataConfig
from toolkit.runtime.cache_folder import cache_folder
from toolkit.runtime.image_files import DEEPEST, reason_against

OPENED = "opened"
"""The folder of records in this machine's cache."""
FORMAT = 1
"""Of a record."""
DAMAGED = (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What reading a damaged record may raise."""
KEPT = 4
"""Records of one data set, such as of several seeds of its splits; the oldest goes first."""


class About(BaseModel):
    """What a record says beside its columns; see :class:`toolkit.data.source.DataSource` and :class:`Contents`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    """Digest of the files."""
    elsewhere: str
    """Digest of the listed files that do not lie below the data set's path."""
    classes: list[str]
    fingerprint: str
    skipped: list[dict[str, str]]
    duplicates: list[list[str]]
    removed: dict[str, int]
    contradictions: list[list[str]]
    leaks: dict[str, list[str]]
    made: list[str]
    left_out: dict[str, int]
    about: dict[str, Any]
    value_range: tuple[float, float] | None
    value_ranges: dict[str, int]
    splits: dict[str, list[str]]
    """The files of several images of each split."""


class NotTold(Exception):  # noqa: N818 - no error: the data set is opened as ever
    """Whether files changed can't be told."""


class RememberedSource:
    """The record of a data set under its settings; made before anything of it is read.

    Args:
        config: the recipe's ``data``.
        settled: seconds that every file must be older than this moment for a record to be made.
    """

    def __init__(self, config: DataConfig, settled: float = SETTLED) -> None:
        self._path, self._latest = config.path, time.time_ns() - int(settled * 1e9)
        root = hashlib.sha256(os.fsencode(config.path.absolute())).hexdigest()[:16]
        versions = f"{FORMAT} {__version__} {PIL.__version__} {np.__version__}"
        settings = config.model_dump(exclude={"store"})  # what was copied from there is here
        key = hashlib.sha256(f"{versions}\n{settings}".encode()).hexdigest()[:16]
        self._folder, self._root = cache_folder(OPENED), root
        self._record = self._folder / f"{root}-{key}.npz"
        self._state: str | None = None
        with suppress(OSError, NotTold):
            self._state = self._digest_here()

    def recall(self) -> dict[str, Any] | None:
        """The fields of the :class:`toolkit.data.source.DataSource`, but for ``root`` and ``target``; None if unknown.

        It is a cache: a record that can't be read is none.
        """
        if self._state is None or not self._record.is_file():
            return None
        with suppress(*DAMAGED, OSError, NotTold):
            with np.load(self._record, allow_pickle=False) as columns:
                about = About.model_validate_json(columns["about"].tobytes())
                elsewhere = _strings(columns, "elsewhere")
                if about.state != self._state or about.elsewhere != self._digest_of(elsewhere):
                    return None
                splits = {
                    split: _samples(columns, f"{split}.", files, about.value_range)
                    for split, files in about.splits.items()
                }
            return about.model_dump(exclude={"state", "elsewhere"}) | {"splits": splits}
        return None

    def keep(self, source: Mapping[str, Any], items: Iterable[ListedImage]) -> None:
        """Record what was opened, unless something speaks against it.

        Args:
            source: the fields of the :class:`toolkit.data.source.DataSource`.
            items: all that were listed.
        """
        splits: Mapping[str, Samples] = source["splits"]
        contents = {split: samples.contents for split, samples in splits.items()}
        if self._state is None or not all(isinstance(each, Contents) for each in contents.values()):
            return
        with suppress(OSError, ValueError, NotTold):  # a ValueError: of names that JSON can't hold
            names = [each.content.name for each in items if isinstance(each.content, WholeFile)]
            elsewhere = Strings.of([] if self._path.is_dir() else names)
            fields = {name: source[name] for name in About.model_fields.keys() & source.keys()}
            fields["splits"] = {split: getattr(each, "files", []) for split, each in contents.items()}
            about = About(state=self._state, elsewhere=self._digest_of(elsewhere), **fields)
            columns = {"about": _bytes(about.model_dump_json().encode())} | _columns("elsewhere", elsewhere)
            for split, samples in splits.items():
                columns |= _columns_of(samples, f"{split}.")
            file = io.BytesIO()
            np.savez(file, allow_pickle=False, **columns)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_bytes(self._record, file.getbuffer())
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        records = sorted(self._folder.glob(f"{self._root}-*.npz"), key=lambda path: path.stat().st_mtime_ns)
        for path in records[:-KEPT]:
            path.unlink(missing_ok=True)

    def _digest_here(self) -> str:
        digest = hashlib.sha256()
        if self._path.is_dir():
            self._add_tree(digest, str(self._path), "", ())
        else:
            for path in (self._path, index_of(self._path), self._path.parent / ABOUT):
                digest.update(self._line(path.name, str(path)))
        return digest.hexdigest()

    def _digest_of(self, names: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(self._line(name, name))
        return digest.hexdigest()

    def _add_tree(self, digest: Any, folder: str, name: str, above: tuple[tuple[int, int], ...]) -> None:
        """Add all files below a folder, through links too, but not what is hidden or a system's."""
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        here = os.stat(folder)  # noqa: PTH116 - names, which are no paths yet
        above = (*above, (here.st_dev, here.st_ino))
        if len(above) > DEEPEST:
            raise NotTold
        for entry in found:
            below = f"{name}/{entry.name}"
            if reason_against(entry.name):
                continue
            if not entry.is_dir():
                digest.update(self._line(below, entry))
            elif not entry.is_symlink() or _identity(entry.path) not in above:
                digest.update(f"{below}\n".encode(errors="surrogatepass"))
                self._add_tree(digest, entry.path, below, above)

    def _line(self, name: str, where: str | os.DirEntry[str]) -> bytes:
        try:
            found = os.stat(where) if isinstance(where, str) else where.stat()  # noqa: PTH116
        except (FileNotFoundError, ValueError):
            return f"{name}\tmissing\n".encode(errors="surrogatepass")
        times = found.st_mtime_ns, found.st_ctime_ns
        if max(times) > self._latest or not stat.S_ISREG(found.st_mode):
            raise NotTold
        numbers = f"{found.st_size} {times[0]} {times[1]} {found.st_ino} {found.st_dev}"
        return f"{name}\t{numbers}\n".encode(errors="surrogatepass")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _bytes(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)


def _columns(name: str, strings: Strings) -> dict[str, Any]:
    return {name: _bytes(strings.encoded), f"{name}.ends": strings.ends}


def _strings(columns: Any, name: str) -> Strings:
    return Strings(columns[name].tobytes(), columns[f"{name}.ends"])


def _columns_of(samples: Samples, before: str) -> dict[str, Any]:
    contents = samples.contents
    assert isinstance(contents, Contents)
    columns = {name: getattr(samples, name) for name in ("labels", "hashes", "has_text")}
    columns |= {name: getattr(contents, name) for name in ("file", "offset", "length")}
    for name in ("names", "groups", "texts"):
        columns |= _columns(name, getattr(samples, name))
    return {before + name: column for name, column in columns.items()}


def _samples(columns: Any, before: str, files: list[str], value_range: tuple[float, float] | None) -> Samples:
    names, groups, texts = (_strings(columns, before + name) for name in ("names", "groups", "texts"))
    labels, hashes, has_text = (columns[before + name] for name in ("labels", "hashes", "has_text"))
    contents = Contents(files, *(columns[before + name] for name in ("file", "offset", "length")))
    return Samples(names, labels, hashes, groups, texts, has_text, contents, value_range)
