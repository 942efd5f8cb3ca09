"""Hugging Face data sets on disk, as ``save_to_disk`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.label_cells import label_columns, listed_labels
from toolkit.data.listing import UNSPLIT, ListedImage, refuse_unlabelled, split_named
from toolkit.errors import ToolkitError
from toolkit.labels import label_text
from toolkit.recipe.data import ColumnsConfig
from toolkit.regular_files import read_regular
from toolkit.runtime.decode import MAX_BYTES

MARKERS = ("dataset_dict.json", "state.json")
"""Files that tell such a folder."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """An image in a row of a data set, encoded as it was stored."""

    table: Any
    column: str
    index: int

    def read(self) -> bytes:
        """The encoded image: stored in the table, or in a file that the table names.

        Raises:
            OSError: there is no such file, or the row is empty.
        """
        value = self.table[self.index][self.column] or {}
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value.get("path") is None:
            raise OSError("the row holds no image")
        return read_regular(Path(value["path"]), MAX_BYTES)


def list_arrow(path: Path, columns: ColumnsConfig) -> tuple[list[ListedImage], list[str] | None]:
    """Every row of a data set on disk, and its class names in their order where it says them.

    Raises:
        ToolkitError: ``datasets`` isn't installed, nothing can be loaded, or columns are missing.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[data]"'
        raise ToolkitError("datasets is not installed", where=path, fix=fix) from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ToolkitError(
            f"can't load the data set: {reason}", where=path, fix="write it again with save_to_disk"
        ) from error
    tables = loaded if isinstance(loaded, dict) else {UNSPLIT: loaded}
    items, names = [], None
    for title, table in tables.items():
        split = UNSPLIT if title == UNSPLIT else split_named(title)
        if split is None:
            fix = "name it after one of them, or remove it"
            raise ToolkitError(f"split {title!r} is none of train, validation and test", where=path, fix=fix)
        found, names = _rows(path, title, table, split, columns)
        items += found
    return items, names


def _rows(
    path: Path, title: str, table: Any, split: str, columns: ColumnsConfig
) -> tuple[list[ListedImage], list[str] | None]:
    import datasets

    labelling = label_columns(columns)
    for name, role in ({columns.image: "image"} | labelling).items():
        if name not in table.column_names:
            there = ", ".join(table.column_names)
            fix = f"name the column that holds it: data.columns.{role}=NAME"
            raise ToolkitError(f"column {name!r} is missing; there are: {there}", where=path, fix=fix)
    if not isinstance(table.features[columns.image], datasets.Image):
        fix = f"cast it: dataset.cast_column({columns.image!r}, datasets.Image())"
        raise ToolkitError(f"column {columns.image!r} holds no images", where=path, fix=fix)
    raw = table.cast_column(columns.image, datasets.Image(decode=False))
    cells, names = {name: list(table[name]) for name in labelling}, None
    only = next(iter(labelling))
    feature = table.features[only]
    inner = getattr(feature, "feature", None)  # of a list
    if len(labelling) == 1 and isinstance(feature if inner is None else inner, datasets.ClassLabel):
        known = [label_text(name) for name in (feature if inner is None else inner).names]
        cells[only] = [_class_names(value, known) for value in cells[only]]
        names = list(dict.fromkeys(filter(None, known)))
    labels = listed_labels(cells, columns, path, f"{title}, row")
    refuse_unlabelled([row for row, label in enumerate(labels, 1) if not label], f"{title}, row", path)
    groups = table[columns.group] if columns.group in table.column_names else [None] * len(labels)
    items = [
        ListedImage(
            split, label, str(path / title / str(index)), TableRow(raw, columns.image, index), label_text(group)
        )
        for index, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    return items, names


def _class_names(value: Any, known: Sequence[str]) -> Any:
    """The names of a class, or of a list of them, by their numbers; none for a number below 0."""
    if isinstance(value, (list, tuple)):
        return [_class_names(each, known) for each in value]
    return "" if value is None or value < 0 else known[value]
