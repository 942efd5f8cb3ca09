"""Embeddings of many images as a file: computed in chunks that outlive an interruption, then written whole."""

# N images, P width of the embedding

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, write_bytes, write_json
from toolkit.runtime.preprocess import Float32
from toolkit.strict_json import read_json

CHUNK = 1024
"""Images of a chunk: what an interruption costs at most."""
ABOUT = "about.json"


@dataclass(frozen=True)
class Embedded:
    """An image's embedding, or why there is none."""

    path: str
    embedding: Float32 | None
    """[P], of length one."""
    error: str = ""


class EmbeddingChunks:
    """A hidden folder beside the file to be, with an array and a list of errors for each chunk that is done.

    Args:
        out: the file to be.
        paths: of all images, in order.
        graph: what identifies the bundle's graph; another one's chunks are thrown away.
    """

    def __init__(self, out: Path, paths: Sequence[str], graph: str) -> None:
        self.out, self.paths = out, paths
        self.folder = out.with_name(f".{out.name}.chunks")
        listing = hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest()
        self._about = {"graph": graph, "paths": listing, "chunk": CHUNK}

    def done(self) -> int:
        """Chunks that an interrupted call left, of the same graph and the same images in the same order."""
        try:
            known = read_json((self.folder / ABOUT).read_bytes())
        except (OSError, ValueError):
            known = None
        with explain_os_errors(self.folder):
            if known != self._about:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                write_json(self.folder / ABOUT, self._about)
        place = 0
        while self._errors(place).is_file():
            place += 1
        return place

    def write(self, rows: Iterable[Embedded], first: int = 0) -> None:
        """Write chunks, from that of number ``first`` on, as the images of it come."""
        source = iter(rows)
        while chunk := list(islice(source, CHUNK)):
            with explain_os_errors(self.folder):
                found = [row.embedding for row in chunk if row.embedding is not None]
                array = np.stack(found) if found else np.zeros((0, 0), np.float32)
                with self._array(first).open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                errors = {place: row.error for place, row in enumerate(chunk) if row.embedding is None}
                write_json(self._errors(first), errors)  # last: what has it is whole
            first += 1

    def read(self) -> Iterator[tuple[list[str], Float32, dict[str, str]]]:
        """Of each chunk, the paths and embeddings [n, P] of the images that could be read, and the others' errors."""
        for place, start in enumerate(range(0, len(self.paths), CHUNK)):
            errors = {int(at): text for at, text in read_json(self._errors(place).read_bytes()).items()}
            names = self.paths[start : start + CHUNK]
            array = np.load(self._array(place), allow_pickle=False, mmap_mode="r")
            readable = [name for at, name in enumerate(names) if at not in errors]
            yield readable, array, {names[at]: text for at, text in errors.items()}

    def remove(self) -> None:
        """Throw the chunks away."""
        shutil.rmtree(self.folder)

    def _array(self, place: int) -> Path:
        return self.folder / f"{place:06d}.npy"

    def _errors(self, place: int) -> Path:
        return self.folder / f"{place:06d}.json"


def check_embedding_file(path: Path) -> None:
    """Refuse a file that can't be written, before the work starts.

    Raises:
        ToolkitError: a suffix that is neither of the two, or a package that is missing.
    """
    if path.suffix.lower() not in WRITERS:
        what = f"embeddings are written as {' or '.join(WRITERS)}, not as {path.suffix or 'a file without a suffix'}"
        raise ToolkitError(what, where=f"--out {path}", fix="name the file like embeddings.parquet")
    if path.is_dir():
        raise ToolkitError("a folder is there already", where=f"--out {path}", fix="name a file")
    _library(path.suffix.lower())
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_embeddings(chunks: EmbeddingChunks) -> dict[str, str]:
    """Write the file of all chunks, and remove them.

    Returns:
        Why images could not be read, by path.

    Raises:
        ToolkitError: a full disk, or no image that could be read.
    """
    errors: dict[str, str] = {}
    if not any(len(array) for _, array, _ in chunks.read()):
        _, _, failed = next(chunks.read())
        path, reason = next(iter(failed.items()))
        raise ToolkitError(f"no image can be read: {reason}", where=path, fix="give image files")
    with _replacing(chunks.out) as partial:
        errors = WRITERS[chunks.out.suffix.lower()](partial, chunks)
    chunks.remove()
    return errors


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.partial-0")
    try:
        with explain_os_errors(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _parquet(path: Path, chunks: EmbeddingChunks) -> dict[str, str]:
    """``path``, ``embedding`` (a list of P float32) and ``error``, in the order of the images but for errors."""
    arrow = _library(".parquet")
    import pyarrow.parquet

    errors, text = dict[str, str](), arrow.string()
    width = next((array.shape[1] for _, array, _ in chunks.read() if len(array)), 0)
    kind = arrow.list_(arrow.float32(), width)
    schema = arrow.schema([("path", text), ("embedding", kind), ("error", text)])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for names, array, failed in chunks.read():
            errors |= failed
            values = arrow.FixedSizeListArray.from_arrays(arrow.array(array.reshape(-1), arrow.float32()), width)
            columns = [arrow.array(names, text), values, arrow.nulls(len(names), text)]
            if names:
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
        columns = [arrow.array(list(each), text) for each in (errors, errors.values())]
        table = [columns[0], arrow.nulls(len(errors), kind), columns[1]]
        writer.write_table(arrow.Table.from_arrays(table, schema=schema))
    return errors


def _safetensors(path: Path, chunks: EmbeddingChunks) -> dict[str, str]:
    """The tensor ``embedding`` [N, P], with ``paths`` and ``errors`` as JSON in the file's metadata."""
    library = _library(".safetensors")
    names, errors, parts = list[str](), dict[str, str](), []
    for read, array, failed in chunks.read():
        names += read
        errors |= failed
        if len(read):
            parts.append(array)
    metadata = {"paths": json.dumps(names), "errors": json.dumps(errors)}
    embeddings = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    write_bytes(path, library.save({"embedding": embeddings}, metadata))
    return errors


def _library(suffix: str) -> Any:
    """The package that writes files of a suffix.

    Raises:
        ToolkitError: it is not installed.
    """
    try:
        if suffix == ".parquet":
            import pyarrow

            return pyarrow
        import safetensors.numpy

        return safetensors.numpy
    except ModuleNotFoundError as error:
        what = f"{suffix} needs {error.name}, which is not installed"
        raise ToolkitError(what, where="--out", fix='pip install "clip-toolkit[data]"') from error


WRITERS: dict[str, Callable[[Path, EmbeddingChunks], dict[str, str]]] = {
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
"""Writers by suffix."""
