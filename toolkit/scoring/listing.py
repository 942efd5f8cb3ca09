"""The list of a job's items as a Parquet file with a row group a shard: which rows a shard has never changes again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.data.remote import file_system
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors
from toolkit.scoring.inputs import Item
from toolkit.scoring.job import LISTING
from toolkit.scoring.store import Store

NAMES = tuple(field.name for field in fields(Item))


def write_listing(store: Store, items: Iterable[Item], shard_rows: int) -> int:
    """Write the list as items come; one shard's are held at a time.

    Returns:
        How many there are.

    Raises:
        ToolkitError: none at all, or the file can't be written.
    """
    arrow = _arrow()
    import pyarrow.parquet

    schema = arrow.schema(
        [
            *((name, arrow.string()) for name in ("path", "file")),
            *((name, arrow.int64()) for name in ("offset", "length")),
            *((name, arrow.string()) for name in ("text", "error")),
        ]
    )
    count, source = 0, iter(items)
    with explain_os_errors(Path(store.where(LISTING))), tempfile.TemporaryFile(dir=store.path) as file:
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            while chunk := list(islice(source, shard_rows)):
                columns = [[getattr(item, name) for item in chunk] for name in NAMES]
                arrays = [arrow.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                writer.write_table(arrow.Table.from_arrays(arrays, schema=schema), row_group_size=shard_rows)
                count += len(chunk)
        if not count:
            raise ToolkitError("nothing is there to score", where=store.url, fix="check --input")
        file.seek(0)
        store.write(LISTING, file.read())
    return count


@contextmanager
def opened_listing(store: Store) -> Iterator[Any]:
    """The list as a ``pyarrow.parquet.ParquetFile``.

    Raises:
        ToolkitError: it is gone or damaged.
    """
    arrow = _arrow()
    import pyarrow.parquet

    again = "choose another --out, or remove the folder"
    try:
        with ExitStack() as opened:
            content: Any = None if store.path is None else store.path / LISTING
            if content is None:  # a row group is read when its turn comes
                content = opened.enter_context(file_system(store.url).open(store.where(LISTING), "rb"))
            yield opened.enter_context(pyarrow.parquet.ParquetFile(content))
    except (OSError, arrow.ArrowInvalid) as error:
        what = f"the list of inputs can't be read: {error}"
        raise ToolkitError(what, where=store.where(LISTING), fix=again) from error


def items_in(file: Any, shard: int) -> list[Item]:
    """The items of one shard, in order."""
    columns = file.read_row_group(shard).to_pydict()
    return [Item(*values) for values in zip(*(columns[name] for name in NAMES), strict=True)]


def _arrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[data]"'
        raise ToolkitError("Parquet needs pyarrow, which is not installed", where="--out", fix=fix) from error
    return pyarrow
