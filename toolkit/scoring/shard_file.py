"""A shard of predictions: a Parquet file, and behind it a marker that says it is whole."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import ToolkitError
from toolkit.runtime.prediction_file import Table
from toolkit.scoring.store import Store

PART = re.compile(r"part-(\d{6,})\.json")


class Done(BaseModel):
    """Content of a marker, ``part-NNNNNN.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    sha256: str
    """Of the Parquet file."""
    errors: dict[str, int]
    """Rows without a prediction, by reason."""
    classes: dict[str, int]
    """Rows by label; of a number none."""
    retried: int = 0
    """Further attempts to read from a store."""


def name_of(shard: int, suffix: str = "parquet") -> str:
    """File name of a shard."""
    return f"part-{shard:06d}.{suffix}"


def done_shards(store: Store) -> dict[int, Done]:
    """The shards that have a marker.

    Raises:
        ToolkitError: a marker that is damaged.
    """
    numbers = [int(match[1]) for name in store.names() if (match := PART.fullmatch(name))]
    found = {number: done_shard(store, number) for number in numbers}
    return {number: done for number, done in found.items() if done is not None}


def done_shard(store: Store, shard: int) -> Done | None:
    """The marker of a shard; None if it has none.

    Raises:
        ToolkitError: it is damaged.
    """
    name = name_of(shard, "json")
    content = store.read_json(name)
    try:
        return None if content is None else Done.model_validate(content)
    except ValidationError as error:
        what, fix = f"damaged: {error.errors()[0]['msg']}", "remove it, and the shard is scored again"
        raise ToolkitError(what, where=store.where(name), fix=fix) from error


def write_shard(
    store: Store,
    shard: int,
    table: Table,
    entries: Sequence[Mapping[str, Any]],
    embeddings: Sequence[Any] | None,
    stamp: Mapping[str, str],
    retried: int,
) -> Done:
    """Write a shard, then its marker: what is killed in between is written again.

    Args:
        store: where to.
        shard: its number.
        table: the columns.
        entries: a prediction a row, as :func:`toolkit.serving.predictor.entry_of` says them.
        embeddings: [P] a row, None for a row without; None where they were not asked for.
        stamp: key-value pairs of the Parquet file.
        retried: further attempts to read from a store.

    Raises:
        ToolkitError: a full disk, no permission, no network.
    """
    import pyarrow as arrow
    import pyarrow.parquet

    rows, schema = [table.row(dict(entry)) for entry in entries], table.schema()
    columns = zip(*rows, strict=True)
    arrays = [arrow.array(list(column), kind) for column, kind in zip(columns, schema.types, strict=True)]
    if embeddings is not None:
        width = next((len(each) for each in embeddings if each is not None), 0)
        kind = arrow.list_(arrow.float32(), width) if width else arrow.list_(arrow.float32())
        schema = schema.append(arrow.field("embedding", kind))
        arrays.append(arrow.array([None if each is None else np.asarray(each) for each in embeddings], kind))
    buffer = io.BytesIO()
    tabled = arrow.Table.from_arrays(arrays, schema=schema.with_metadata(dict(stamp)))
    pyarrow.parquet.write_table(tabled, buffer)
    content = buffer.getvalue()
    done = Done(
        rows=len(rows),
        sha256=hashlib.sha256(content).hexdigest(),
        errors=dict(Counter(str(entry["error"]) for entry in entries if "error" in entry)),
        classes=dict(Counter(str(entry["label"]) for entry in entries if "label" in entry)),
        retried=retried,
    )
    store.write(name_of(shard), content)
    store.write_json(name_of(shard, "json"), done.model_dump())
    return done
