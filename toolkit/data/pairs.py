"""What is to be predicted as a table says it: an image, a text, or both a row, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.data.manifest import place_of, read_table
from toolkit.data.texts import texts_of
from toolkit.errors import ToolkitError
from toolkit.labels import cell_text
from toolkit.recipe.data import MissingText


@dataclass(frozen=True, slots=True)
class Pair:
    """One row."""

    path: Path | None
    """None where there is no image."""
    text: str | None
    """None where there is no text, or none is asked for."""


def read_pairs(
    manifest: Path, *, path_column: str | None, text_column: str | None, allow_missing: bool = False
) -> list[Pair]:
    """Every row of a CSV or Parquet manifest; relative paths start at the manifest's own folder.

    Args:
        manifest: the table's file.
        path_column: of the images; None for texts alone.
        text_column: of the texts; None for images alone.
        allow_missing: whether a row may lack its image or its text, but not both.

    Raises:
        ToolkitError: unreadable, a column that is missing, or rows that lack what they need.
    """
    options = {"--path-column": path_column, "--text-column": text_column}
    wanted = {option: name for option, name in options.items() if name is not None}
    table = read_table(manifest, set(wanted.values()))
    for option, name in wanted.items():
        if name not in table:
            what = f"column {name!r} is missing; there are: {', '.join(table) or 'none'}"
            raise ToolkitError(what, where=manifest, fix=f"add it, or name the column that holds it: {option} NAME")
    count = len(next(iter(table.values())))
    if not count:
        raise ToolkitError("the manifest has no rows", where=manifest, fix="add a row an image or text")
    cells = [""] * count
    if path_column is not None:
        cells = [cell_text(value.strip() if isinstance(value, str) else value) for value in table[path_column]]
    rows, texts = range(1, count + 1), list[str | None]([None] * count)
    if text_column is not None:
        missing: MissingText = "allow" if allow_missing else "error"
        texts = texts_of(table[text_column], rows, missing=missing, kind="row", where=manifest)
    for row, cell, text in zip(rows, cells, texts, strict=True) if path_column is not None else ():
        if not cell and (text is None or not allow_missing):
            lacks = "no path" if text is not None or text_column is None else "neither path nor text"
            raise ToolkitError(f"{lacks} in row {row}", where=manifest, fix="fill it in or remove the row")
    return [
        Pair(Path(place_of(manifest, cell)) if cell else None, text) for cell, text in zip(cells, texts, strict=True)
    ]
