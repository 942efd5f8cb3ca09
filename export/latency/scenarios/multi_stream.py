"""MLPerf's MultiStream scenario: queries of several images, one query after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from export.latency.measure import MinSamples, alternate
from export.latency.pool import BATCHES, MOST_BYTES, SEED, Pool
from export.latency.runner import Runner
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.inputs import Feed, Inputs, examples_in, part_of, places_by_shapes, stacked

SAMPLES = (1, 2, 4, 8)
"""Images of a query; MLPerf's has 8."""
Query = list[Feed]
"""Images of one query: a batch for each shape among them."""


def multi_stream(
    engine: Runner,
    pool: Pool,
    sizes: Sequence[int] = SAMPLES,
    least: MinSamples | None = None,
    *,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Measure queries of several images, each issued when the last is done.

    A query is one batch, or one for each shape among its images, which then run one after the other.

    Args:
        engine: what to measure.
        pool: what the images of a query are drawn from.
        sizes: images a query.
        least: queries and seconds of each size.
        progress: told how it goes on.

    Returns:
        ``rows`` of ``latency.json`` whose times are those of a whole query, with ``samples_per_query`` and
        ``batches_per_query`` (the mean).

    Raises:
        ToolkitError: no runs, or a query without images.
    """
    least = least or MinSamples()
    least.check()
    if not sizes or min(sizes) < 1:
        raise ToolkitError("a query holds 1 image or more", where="--streams", fix="write it like 1,2,4,8")

    def run(query: Query) -> None:
        for batch in query:
            engine.run(batch)

    whole = replace(engine, run=run, device_seconds=None)
    rows = []
    for size in sizes:
        drawn: Any = queries(pool, size)
        (samples,) = alternate([whole], drawn, least, progress=progress)
        row = samples.row(size) | {"scenario": "MultiStream", "samples_per_query": size}
        row["batches_per_query"] = float(np.mean([len(query) for query in drawn]))
        rows.append({key: value for key, value in row.items() if key != "batch_size"})
    return rows


def queries(pool: Pool, size: int) -> list[Query]:
    """Distinct queries of ``size`` images from the whole pool, in a seeded order."""
    images = [part_of(group, place) for group in pool.groups for place in range(examples_in(group))]
    most = max(1, MOST_BYTES // max(1, size * pool.largest_bytes))
    count = min(BATCHES, most, -(-len(images) // size))
    rng = np.random.default_rng(SEED)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(-(-count * size // len(images)))])
    return [_by_shape([images[at] for at in row]) for row in order[: count * size].reshape(count, size).tolist()]


def _by_shape(images: Sequence[Inputs]) -> Query:
    groups = places_by_shapes(dict(enumerate(images)))
    return [stacked(images[place] for place in places) for places in groups]
