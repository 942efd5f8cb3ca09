"""A table of images, CSV or Parquet: path, label, and where known split and group."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Container
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from toolkit.data.label_cells import label_columns, listed_labels
from toolkit.data.listing import UNSPLIT, ListedImage, WholeFile, named, refuse_unlabelled, split_named
from toolkit.errors import ToolkitError
from toolkit.labels import cell_text, label_text
from toolkit.recipe.data import ColumnsConfig
from toolkit.regular_files import bounded_lines, open_regular, require_regular

EXTENSIONS = frozenset({".csv", ".tsv", ".parquet"})
MOST_ROWS = 100_000_000


def list_manifest(path: Path, columns: ColumnsConfig) -> list[ListedImage]:
    """Every row of a manifest; relative paths start at the manifest's own folder.

    Raises:
        ToolkitError: unreadable, a column that is missing, rows without path or label, rows
            that stand there twice, or unknown splits.
    """
    labelling = label_columns(columns)
    table = read_table(path, columns.names() | set(labelling))
    for name, role in ({columns.path: "path"} | labelling).items():
        if name not in table:
            raise ToolkitError(
                f"column {name!r} is missing; there are: {', '.join(table) or 'none'}",
                where=path,
                fix=f"add it, or name the column that holds it: data.columns.{role}=NAME",
            )
    texts = {role: _texts(table.get(getattr(columns, role), []), role) for role in ("path", "split", "group")}
    labels = listed_labels({name: list(map(_stripped, table[name])) for name in labelling}, columns, path)
    rows = len(texts["path"])
    if not rows:
        raise ToolkitError("the manifest has no rows", where=path, fix="add a row an image")
    refuse_unlabelled([row for row, label in enumerate(labels, 1) if not label], "row", path)
    _refuse(
        path, "no path", [row for row, text in enumerate(texts["path"]) if not text], "fill it in or remove the rows"
    )
    places = [_place(path, text) for text in texts["path"]]
    seen = Counter(places)
    twice = [row for row, place in enumerate(places) if seen[place] > 1]
    _refuse(path, "the same path more than once", twice, "keep one row an image")
    splits = _splits(path, texts["split"], rows)
    groups = texts["group"] or [""] * rows
    return [
        ListedImage(split, label, place, WholeFile(place), group)
        for split, label, place, group in zip(splits, labels, places, groups, strict=True)
    ]


def read_table(path: Path, wanted: Container[str]) -> dict[str, list[Any]]:
    """Columns by name; of Parquet those that are not ``wanted`` stand empty, since they may hold gigabytes.

    Raises:
        ToolkitError: not there, or neither CSV nor Parquet.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, wanted)
        with TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            reader = csv.DictReader(bounded_lines(file), delimiter=delimiter, strict=True)
            names = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        fix = "save it as CSV in UTF-8, or as Parquet"
        raise ToolkitError(f"can't read the manifest: {reason}", where=path, fix=fix) from error
    double = sorted(name for name, count in Counter(names).items() if count > 1)
    if double:
        raise ToolkitError(f"column {double[0]!r} stands there twice", where=path, fix="rename or remove one of them")
    _refuse(
        path,
        "more values than columns",
        [row for row, values in enumerate(rows) if None in values],
        "quote values with commas",
    )
    return {name: [row[name] for row in rows] for name in names}


def _read_parquet(path: Path, wanted: Container[str]) -> dict[str, list[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[data]", or give CSV'
        raise ToolkitError("pyarrow is not installed", where=path, fix=fix) from error
    try:
        require_regular(path)
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:  # a few kilobytes can say that they hold billions
                raise ValueError(f"{file.metadata.num_rows:,} rows, over the limit of {MOST_ROWS:,}")
            names = file.schema_arrow.names
            table = file.read([name for name in names if name in wanted])
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    return {name: table.column(name).to_pylist() if name in wanted else [] for name in names}


def _texts(values: list[Any], role: str) -> list[str]:
    """A column's cells as text; groups read the same in every format, paths stay as they are written."""
    read = label_text if role == "group" else cell_text
    return [read(_stripped(value)) for value in values]


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _place(manifest: Path, text: str) -> str:
    try:
        place = Path(text).expanduser()
    except RuntimeError:  # no such home: a file whose name begins with a tilde
        place = Path(text)
    return str((manifest.parent / place).absolute())


def _splits(path: Path, texts: list[str], rows: int) -> list[str]:
    if not any(texts):
        return [UNSPLIT] * rows
    found = [split_named(text) for text in texts]
    odd = [row for row, split in enumerate(found) if split is None]
    words = sorted({texts[row] for row in odd} - {""})
    unknown = f" ({named(words)})" if words else ""
    what = f"no split, or one that is not train, validation or test{unknown},"
    _refuse(path, what, odd, "name a split in every row, or in none")
    return [split for split in found if split is not None]


def _refuse(path: Path, what: str, rows: list[int], fix: str) -> None:
    """Raise if there are such rows, counted from 1 below the heading."""
    if rows:
        raise ToolkitError(f"{what} in row {named([row + 1 for row in rows])}", where=path, fix=fix)
