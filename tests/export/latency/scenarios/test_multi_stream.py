from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.latency.measure import MinSamples
from export.latency.pool import Pool, golden_contents, pool_of
from export.latency.runner import Runner, onnxruntime_engine
from export.latency.scenarios.multi_stream import multi_stream, queries
from toolkit.errors import ToolkitError
from toolkit.reporting.scenario_section import scenario_parts
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import examples_in

ONE_SHAPE = Pool([], [{"image": np.arange(10.0).reshape(10, 1)}], "here")
TWO_SHAPES = Pool([], [{"image": np.arange(5.0).reshape(5, 1)}, {"image": np.arange(10.0).reshape(5, 2)}], "here")


def test_a_query_is_one_batch_where_all_images_have_a_shape() -> None:
    assert {len(query) for query in queries(ONE_SHAPE, 4)} == {1}
    assert {query[0]["image"].shape for query in queries(ONE_SHAPE, 4)} == {(4, 1)}


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_queries_hold_their_images_and_draw_on_the_whole_pool(size: int) -> None:
    drawn = queries(TWO_SHAPES, size)
    assert {sum(map(examples_in, query)) for query in drawn} == {size}
    assert all(len({batch["image"].shape[1:] for batch in query}) == len(query) for query in drawn)
    assert len({(image.shape, image[0]) for query in drawn for batch in query for image in batch["image"]}) == 10


def test_rows_count_queries_and_their_latency_is_that_of_all_batches() -> None:
    images: list[int] = []
    engine = Runner("fake", "int8", "cpu", 1, lambda batch: images.append(len(batch["image"])))
    rows = multi_stream(engine, TWO_SHAPES, (1, 8), MinSamples(20, 0))
    assert [row["samples_per_query"] for row in rows] == [1, 8]
    assert [row["batches_per_query"] for row in rows] == [1.0, 2.0]
    assert sum(images) == sum(row["samples_per_query"] * (row["runs"] + row["warmup_runs"]) for row in rows)
    for row in rows:
        assert row["scenario"] == "MultiStream"
        assert row["precision"] == "int8"
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert "batch_size" not in row


@pytest.mark.parametrize("samples", [(), (0,), (4, -1)])
def test_queries_without_images_are_refused(samples: tuple[int, ...]) -> None:
    engine: Any = Runner("fake", "fp32", "cpu", 1, lambda _: None)
    with pytest.raises(ToolkitError, match="query"):
        multi_stream(engine, ONE_SHAPE, samples)


def test_a_real_bundle_answers_queries_and_the_report_shows_them(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(finished_bundle)
    engine = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    pool = pool_of(bundle, engine.input, *golden_contents(bundle))
    rows = multi_stream(engine, pool, (2, 3), MinSamples(2, 0))
    assert rows[0]["throughput_ips"] > 0
    shown = "".join(scenario_parts({"multi_stream": rows}, tmp_path))
    assert all(f'<td>fp32 on cpu</td><td class="n">{size}</td>' in shown for size in (2, 3))
