"""Reading ahead of what is used, and rows that lie where they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from toolkit.training.activation_source import CacheFeed, ResidentFeed, cached_source, one_ahead
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.boundary_cache import DTYPES, FILL_BATCH, BoundaryCache, CachedSplit, Layout
from toolkit.training.device_memory import device_memory, free_device_bytes, that_fit
from toolkit.training.stopwatch import Stopwatch

CPU = torch.device("cpu")


def test_the_next_item_is_made_while_the_one_before_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    got = []
    for number in one_ahead(items()):
        got.append(number)
        if number + 1 < len(made):
            assert made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])
    assert got == [0, 1, 2, 3]


def test_an_error_arrives_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    read = one_ahead(items())
    assert next(read) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(read)


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    read = one_ahead(iter(range(100)))
    assert next(read) == 0
    read.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_resident_rows_are_those_that_are_read_in_the_same_order(dtype: str, tmp_path: Path) -> None:
    """Three shards of two views; every epoch deals the images anew."""
    images = FILL_BATCH + 5
    layout = Layout(images={"train": images}, views={"train": 2}, row=(2, 140_000), dtype=dtype)
    assert len(layout.shards()) >= 4
    cache = BoundaryCache(tmp_path, {"of": "this test"}, layout)
    generator = torch.Generator().manual_seed(0)
    for shard in layout.shards():
        rows = torch.rand(shard.stop - shard.start, *layout.row, generator=generator).to(DTYPES[dtype][0])
        cache.write(shard, rows, 0)
    split, labels = cache.split("train"), list(range(images))
    resident, read = (kind(split, labels, CPU) for kind in (ResidentFeed, CacheFeed))
    assert layout.split_bytes == {"train": 2 * images * layout.row_bytes}
    plan = BatchSchedule(images, 8, seed=3)
    for epoch in (1, 2, 3):
        batches = [batch for step in plan.steps(epoch) for batch in step]
        pairs = zip(resident(batches, Stopwatch(CPU)), read(batches, Stopwatch(CPU)), strict=True)
        for (rows, of_them), (expected, right) in pairs:
            assert rows.dtype == expected.dtype == torch.float32
            assert torch.equal(rows, expected)
            assert of_them.tolist() == right.tolist()


class NoRoom(CachedSplit):
    """On a device whose memory something else has taken."""

    def all_rows(self, device: torch.device) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"no room on {device}")


def filled(root: Path, images: int, row: tuple[int, ...] = (3,)) -> BoundaryCache:
    """Of one split in one view, with random rows."""
    cache = BoundaryCache(root, {}, Layout(images={"train": images}, views={"train": 1}, row=row, dtype="fp32"))
    for shard in cache.layout.shards():
        cache.write(shard, torch.rand(shard.stop - shard.start, *row), 0)
    return cache


def test_rows_without_room_are_read_from_the_cache(tmp_path: Path) -> None:
    cache, labels = filled(tmp_path, 9), list(range(9))
    split = cache.split("train")
    crowded = cached_source(NoRoom(split.layout, "train", split.paths), labels, CPU, resident=True)
    assert isinstance(crowded, CacheFeed)
    resident = cached_source(split, labels, CPU, resident=True)
    assert isinstance(resident, ResidentFeed)
    assert isinstance(cached_source(split, labels, CPU, resident=False), CacheFeed)
    batches = [batch for step in BatchSchedule(9, 4).steps(1) for batch in step]
    for (rows, of_them), (expected, right) in zip(
        crowded(batches, Stopwatch(CPU)), resident(batches, Stopwatch(CPU)), strict=True
    ):
        assert torch.equal(rows, expected)
        assert torch.equal(of_them, right)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_without_room_reads_from_the_cache(tmp_path: Path) -> None:
    split, cuda = filled(tmp_path, 8, (2_000_000,)).split("train"), torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        source = cached_source(split, list(range(8)), cuda, resident=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert isinstance(source, CacheFeed)


def test_what_fits_is_taken_in_order_and_beside_what_came_before() -> None:
    sizes = {"train": 60, "validation": 30}
    assert that_fit(sizes, 90) == sizes
    assert that_fit(sizes, 89) == {"train": 60}
    assert that_fit(sizes, 59) == {"validation": 30}
    assert that_fit(sizes, 0) == {}


def test_a_cpu_has_no_memory_of_its_own_to_take() -> None:
    assert free_device_bytes(CPU) == 0
    assert device_memory(CPU) == {}
