"""Predictions as a file: CSV, one JSON object a line, or Parquet; written image by image, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors

Write = Callable[[dict[str, Any]], None]
ROW_GROUP = 10_000
"""Images that a Parquet file is written of at a time."""


def check_prediction_file(path: Path) -> None:
    """Refuse a file that can't be written, before the work starts.

    Raises:
        ToolkitError: a suffix that is none of the three, a package that is missing, or no folder to write into.
    """
    if path.suffix.lower() not in WRITERS:
        what = f"predictions are written as {', '.join(WRITERS)}, not as {path.suffix or 'a file without a suffix'}"
        raise ToolkitError(what, where=f"--out {path}", fix="name the file like predictions.csv")
    if path.suffix.lower() == ".parquet":
        _parquet()
    if path.is_dir():
        raise ToolkitError("a folder is there already", where=f"--out {path}", fix="name a file")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


@contextmanager
def prediction_file(
    path: Path,
    labels: Sequence[str],
    top_k: int | None,
    *,
    several: bool = False,
    number: bool = False,
    texts: bool = False,
) -> Iterator[Write]:
    """A function that adds an entry (:func:`toolkit.serving.predictor.entry_of`) to the file.

    The file takes its place when all entries are written; after an error or an interruption nothing changed.
    A table (CSV, Parquet) has the columns ``path``, ``label``, ``probability`` and ``error``, and then
    ``probability of LABEL`` for every class, or with ``top_k`` ``label_2``, ``probability_2`` to ``label_K``,
    ``probability_K``. Where an image may have several labels, ``labels`` stands behind ``label``: a list in Parquet, a
    JSON list in CSV, as a manifest may have it. Of a number the columns are ``path``, ``value`` and ``error``. A path
    that is no UTF-8 stands there as its ``file:`` URI (:func:`toolkit.text.path_text`).

    Args:
        path: a file that :func:`check_prediction_file` let pass; one that is there is replaced.
        labels: the bundle's classes.
        top_k: classes that the entries have the probabilities of; all if None.
        several: whether an image may have several labels.
        number: whether a number is said.
        texts: whether a column ``text`` stands behind ``path``.

    Raises:
        ToolkitError: a full disk, or a folder that can't be written into.
    """
    few = None if top_k is None or top_k >= len(labels) else top_k
    with explain_os_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.partial-")
        os.close(handle)
        unfinished = Path(name)
        try:
            with WRITERS[path.suffix.lower()](unfinished, Table(labels, few, several, number, texts)) as write:
                yield write
            unfinished.chmod(0o644)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def columns(labels: Sequence[str], top_k: int | None, *, several: bool = False, texts: bool = False) -> list[str]:
    """Names of a table's columns."""
    first = ["path", *(["text"] if texts else []), "label", *(["labels"] if several else []), "probability", "error"]
    if top_k is None:
        return [*first, *(f"probability of {label}" for label in labels)]
    return [*first, *(f"{what}_{rank}" for rank in range(2, top_k + 1) for what in ("label", "probability"))]


def row(
    entry: dict[str, Any], labels: Sequence[str], top_k: int | None, *, several: bool = False, texts: bool = False
) -> list[Any]:
    """An entry's values in the order of :func:`columns`; None where it has none."""
    found: dict[str, float] = entry.get("probabilities", {})
    label, text = entry.get("label"), [entry.get("text")] if texts else []
    said = [entry.get("labels")] if several else []
    start = [entry["path"], *text, label, *said, found.get(str(label)), entry.get("error")]
    if top_k is None:
        return start + [found.get(name) for name in labels]
    ranked = sorted(found.items(), key=lambda pair: (pair[0] != label, -pair[1]))[1:top_k]
    values = [value for pair in ranked for value in pair]
    return start + values + [None] * (2 * (top_k - 1) - len(values))


@dataclass(frozen=True)
class Table:
    """The columns of a file, and what an entry has in them."""

    labels: Sequence[str]
    top_k: int | None
    several: bool
    number: bool
    texts: bool

    def names(self) -> list[str]:
        """Of the columns, in order."""
        if self.number:
            return ["path", *(["text"] if self.texts else []), "value", "error"]
        return columns(self.labels, self.top_k, several=self.several, texts=self.texts)

    def row(self, entry: dict[str, Any]) -> list[Any]:
        """An entry's values in that order."""
        if self.number:
            return [entry.get(name) for name in self.names()]
        return row(entry, self.labels, self.top_k, several=self.several, texts=self.texts)

    def schema(self) -> Any:
        """The columns' types in Parquet.

        Raises:
            ToolkitError: pyarrow is not installed.
        """
        arrow, _ = _parquet()
        names, text = self.names(), {"path", "text", "label", "error"}
        kinds = [arrow.string() if name in text or name.startswith("label_") else arrow.float64() for name in names]
        if self.several:
            kinds[names.index("labels")] = arrow.list_(arrow.string())
        return arrow.schema(list(zip(names, kinds, strict=True)))


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


@contextmanager
def _csv(path: Path, table: Table) -> Iterator[Write]:
    with _text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.names())
        yield lambda entry: writer.writerow(list(map(_cell, table.row(entry))))


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


@contextmanager
def _jsonl(path: Path, table: Table) -> Iterator[Write]:
    with _text_file(path) as file:
        yield lambda entry: print(json.dumps(entry, ensure_ascii=False), file=file)


@contextmanager
def _parquet_file(path: Path, table: Table) -> Iterator[Write]:
    arrow, parquet = _parquet()
    schema, waiting = table.schema(), list[list[Any]]()
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            values = zip(*waiting, strict=True) if waiting else [()] * len(schema)
            arrays = [arrow.array(list(column), kind) for column, kind in zip(values, schema.types, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        def write(entry: dict[str, Any]) -> None:
            waiting.append(table.row(entry))
            if len(waiting) == ROW_GROUP:
                flush()

        yield write
        flush()


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[data]", or write .csv or .jsonl'
        raise ToolkitError("Parquet needs pyarrow, which is not installed", where="--out", fix=fix) from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Path, Table], AbstractContextManager[Write]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet_file,
}
"""Writers by suffix."""
