"""What the cells of a table say of an image, as a listing holds it: a class, several labels, or a number.

Several labels stand in one column, as a list (of Parquet or Arrow, or a JSON list) or joined by a separator, or in a
column of 0 and 1 for each label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.data.listing import named
from toolkit.data.target import labels_text, number_text
from toolkit.errors import ToolkitError
from toolkit.labels import cell_text, label_text
from toolkit.recipe.data import ColumnsConfig

YES, NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
Table = Mapping[str, Sequence[Any]]
"""Columns by name."""


def label_columns(columns: ColumnsConfig) -> dict[str, str]:
    """Names of the columns that say what is known of an image, with the key that each is named by."""
    if columns.number is not None:
        return {columns.number: "number"}
    if columns.labels is None:
        return {columns.label: "label"}
    names = [columns.labels] if isinstance(columns.labels, str) else columns.labels
    return dict.fromkeys(names, "labels")


def listed_labels(table: Table, columns: ColumnsConfig, where: Path, rows: str = "row") -> list[str]:
    """A text a row; empty where there is no class.

    Args:
        table: with all of :func:`label_columns`.
        columns: what they are called.
        where: the table's file.
        rows: what errors call a row.

    Raises:
        ToolkitError: cells that say nothing, or no number; with their rows, from 1.
    """
    if columns.number is not None:
        return _read(table[columns.number], _number, where, rows, "write a number into every row, or remove these")
    if columns.labels is None:
        return [label_text(value) for value in table[columns.label]]
    if isinstance(columns.labels, str):
        fix = "write a list, names joined by data.columns.separator, or [] where there is no label"
        return _read(table[columns.labels], lambda cell: _several(cell, columns.separator), where, rows, fix)
    flags = {name: _read(table[name], _flag, where, f"{name!r}, {rows}", "write 0 or 1") for name in columns.labels}
    names = [label_text(name) for name in flags]
    return [
        labels_text(name for name, flag in zip(names, row, strict=True) if flag == "1")
        for row in zip(*flags.values(), strict=True)
    ]


def several_text(value: Any) -> str:
    """A list of labels as a listing holds it.

    Raises:
        ValueError: no list, or one with an empty name.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError("no list of labels")
    names = [label_text(name.strip() if isinstance(name, str) else name) for name in value]
    if not all(names):
        raise ValueError("a label without a name")
    return labels_text(names)


def _several(cell: Any, separator: str) -> str:
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        raise ValueError("no labels")
    if isinstance(cell, (list, tuple)):
        return several_text(cell)
    text = str(cell).strip() if isinstance(cell, str) else cell_text(cell)
    if text.startswith("["):
        try:
            return several_text(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON list ({error.msg})") from error
    return several_text(text.split(separator) if text else [])


def _flag(cell: Any) -> str:
    text = label_text(cell.strip() if isinstance(cell, str) else cell).lower()
    if text not in YES | NO:
        raise ValueError(f"neither 0 nor 1 ({text!r})" if text else "neither 0 nor 1 (empty)")
    return "1" if text in YES else "0"


def _number(cell: Any) -> str:
    text = cell_text(cell).strip()
    if not text:
        raise ValueError("no number (empty)")
    try:
        return number_text(float(text))
    except ValueError as error:
        raise ValueError(f"no finite number ({text!r})") from error


def _read(cells: Sequence[Any], read: Callable[[Any], str], where: Path, rows: str, fix: str) -> list[str]:
    """Every cell as text.

    Raises:
        ToolkitError: what the first bad cell lacks, and the rows of all.
    """
    found, bad, reason = list[str](), list[int](), ""
    for row, cell in enumerate(cells, 1):
        try:
            found.append(read(cell))
        except ValueError as error:
            reason = reason or str(error)
            bad.append(row)
    if bad:
        raise ToolkitError(f"{reason} in {rows} {named(bad)}", where=where, fix=fix)
    return found
