from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.errors import ToolkitError
from toolkit.training.boundary_cache import DTYPES, BoundaryCache, Layout, Shard, map_rows

CONTENTS = {"trunk_sha256": "0a1b", "cut": "layers.9", "images": {"train": ["a.png", "b.png"]}, "device": "cpu"}
SMALL = Layout(images={"train": 5, "validation": 3}, views={"train": 2, "validation": 1}, row=(2, 8), dtype="fp32")
WIDE = {"fp32": (2, 66_000), "fp16": (4, 66_000), "bf16": (4, 66_000)}
"""Rows of which 32 make a shard, of 17 MB: the smallest that there are."""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for caches, which are too large to be left behind."""
    yield tmp_path / "caches"
    shutil.rmtree(tmp_path / "caches", ignore_errors=True)


def rows_of(layout: Layout, shard: Shard) -> torch.Tensor:
    """Activations as a trunk would give them, in fp32; each split, view and image has its own."""
    generator = torch.Generator().manual_seed(zlib.crc32(shard.name.encode()))
    return torch.randn(shard.stop - shard.start, *layout.row, generator=generator) * 4


def filled(
    root: Path, layout: Layout = SMALL, contents: dict[str, Any] = CONTENTS, processes: int = 1
) -> BoundaryCache:
    """A cache whose shards were written in turn by several processes."""
    cache = BoundaryCache(root, contents, layout)
    for number, shard in enumerate(layout.shards()):
        cache.write(shard, rows_of(layout, shard).to(DTYPES[layout.dtype][0]), number % processes)
    return cache


def file_of(cache: BoundaryCache, shard: Shard) -> Path:
    (path,) = cache.folder.glob(f"rank-*/{shard.name}")
    return path


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rows_are_read_as_they_were_written_and_an_epoch_sees_its_view(dtype: str, root: Path) -> None:
    """Over several shards of two processes; fp32 bit for bit, the others rounded as torch rounds."""
    torch_dtype = DTYPES[dtype][0]
    layout = Layout({"train": 34, "validation": 3}, {"train": 2, "validation": 1}, WIDE[dtype], dtype)
    assert len(layout.shards()) == 2 * 2 + 1
    cache = filled(root, layout, processes=2)
    assert cache.missing(layout.shards()) == ([], 0)
    for split, count in layout.images.items():
        read, views = cache.split(split), layout.views[split]
        truth = [
            torch.cat([rows_of(layout, s) for s in layout.shards() if (s.split, s.view) == (split, view)])
            for view in range(views)
        ]
        order = random.Random(0).sample(range(count), count)
        for epoch in (1, 2, 3, 4):
            for indices in (order[:8], order[-3:], [order[0]] * 2, [count - 1]):
                rows = read.rows(epoch, indices)
                assert rows.dtype == torch_dtype
                expected = truth[(epoch - 1) % views][indices].to(torch_dtype)
                assert rows.view(torch.uint8).equal(expected.view(torch.uint8))


def test_shards_cover_every_image_of_every_view_once_and_have_names_of_their_own() -> None:
    for images in (1, 31, 32, 33, 500):
        for row in ((7,), (1000, 33), (3_000_000,)):
            layout = Layout({"train": images, "validation": 9}, {"train": 3, "validation": 1}, row, "fp16")
            shards = layout.shards()
            keys = [(s.split, s.view, index) for s in shards for index in range(s.start, s.stop)]
            train = [("train", view, index) for view in range(3) for index in range(images)]
            assert keys == train + [("validation", 0, index) for index in range(9)]
            assert len({shard.name for shard in shards}) == len(shards)
            assert layout.bytes_of(shards) == (3 * images + 9) * layout.row_bytes


CHANGES = {
    "nothing": (CONTENTS, SMALL),
    "the trunk": (CONTENTS | {"trunk_sha256": "0a1c"}, SMALL),
    "where it ends": (CONTENTS | {"cut": "layers.10"}, SMALL),
    "an image": (CONTENTS | {"images": {"train": ["a.png", "c.png"]}}, SMALL),
    "the order of images": (CONTENTS | {"images": {"train": ["b.png", "a.png"]}}, SMALL),
    "nothing for something": (CONTENTS | {"device": None}, SMALL),
    "something more": (CONTENTS | {"augment": []}, SMALL),
    "the row": (CONTENTS, replace(SMALL, row=(8, 2))),
    "the dtype": (CONTENTS, replace(SMALL, dtype="fp16")),
    "the views": (CONTENTS, replace(SMALL, views={"train": 3, "validation": 1})),
}


def test_any_change_of_the_contents_gives_another_key_and_folder() -> None:
    caches = [BoundaryCache(Path("r"), contents, layout) for contents, layout in CHANGES.values()]
    assert len({cache.key for cache in caches}) == len({cache.folder for cache in caches}) == len(caches)


def test_the_key_does_not_depend_on_the_order_of_the_contents_or_on_the_place() -> None:
    turned = BoundaryCache(Path("elsewhere"), dict(reversed(CONTENTS.items())), SMALL)
    assert turned.key == BoundaryCache(Path("r"), CONTENTS, SMALL).key


def flipped(content: bytes, bits: Iterable[int]) -> Iterator[bytes]:
    """The content once for each bit, with that bit flipped."""
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def header_bits(content: bytes) -> range:
    return range((8 + int.from_bytes(content[:8], "little")) * 8)


def data_bits(content: bytes) -> range:
    return range((8 + int.from_bytes(content[:8], "little")) * 8, len(content) * 8)


DAMAGES: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "empty": lambda content: [b""],
    "cut off": lambda content: (content[:size] for size in range(len(content))),
    "a bit of the data": lambda content: flipped(content, data_bits(content)),
    "a bit of the header": lambda content: flipped(content, header_bits(content)),
    "zeros": lambda content: [bytes(len(content))],
    "text": lambda content: [b"The disk had other plans.\n" * 100],
    "two rows exchanged": lambda content: [content[:-128] + content[-64:] + content[-128:-64]],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_is_found_and_removed(damage: Callable[[bytes], Iterable[bytes]], root: Path) -> None:
    cache, shards = filled(root), SMALL.shards()
    path = file_of(cache, shards[0])
    whole = path.read_bytes()
    assert cache.missing(shards) == ([], 0)
    others = set(files_in(root)) - {path}
    for content in damage(whole):
        path.write_bytes(content)
        assert cache.missing(shards[:1]) == (shards[:1], 1)
        assert set(files_in(root)) == others
    cache.write(shards[0], rows_of(SMALL, shards[0]), 0)
    assert cache.missing(shards) == ([], 0)
    assert cache.split("train").rows(1, range(5)).equal(rows_of(SMALL, shards[0]))


def test_a_shard_of_another_key_is_found_and_removed(root: Path) -> None:
    cache, other = filled(root), filled(root, contents=CONTENTS | {"trunk_sha256": "0a1c"})
    for shard in SMALL.shards():
        shutil.copy(file_of(other, shard), file_of(cache, shard))
    assert cache.missing(SMALL.shards()) == (SMALL.shards(), len(SMALL.shards()))
    assert not files_in(cache.folder)
    assert other.missing(SMALL.shards()) == ([], 0)


def test_a_shard_under_anothers_name_is_found_and_removed(root: Path) -> None:
    cache, (first, second, *rest) = filled(root), SMALL.shards()
    file_of(cache, first).rename(file_of(cache, second))
    assert cache.missing(SMALL.shards()) == ([first, second], 1)
    assert [file_of(cache, shard) for shard in rest] == sorted(files_in(root))


def test_a_shard_of_a_split_that_has_grown_is_found_and_removed(root: Path) -> None:
    cache = filled(root)
    grown = BoundaryCache(root, CONTENTS, replace(SMALL, images={"train": 6, "validation": 3}))
    assert grown.folder == cache.folder
    missing, damaged = grown.missing(grown.layout.shards())
    assert ({shard.split for shard in missing}, damaged) == ({"train"}, 2)


def test_what_a_killed_process_left_is_not_read(root: Path) -> None:
    cache, (shard, *others) = filled(root), SMALL.shards()
    path = file_of(cache, shard)
    path.rename(path.with_name(f".{path.name}.partial-123"))
    assert cache.missing([shard, *others]) == ([shard], 0)
    with pytest.raises(ToolkitError, match=f"{shard.name} is not here"):
        cache.split(shard.split)


def test_what_was_written_is_a_safetensors_file_that_others_read(root: Path) -> None:
    from safetensors.torch import load_file

    cache = filled(root)
    for shard in SMALL.shards():
        assert load_file(file_of(cache, shard))["rows"].equal(rows_of(SMALL, shard))


def test_rows_can_be_read_but_not_changed(root: Path) -> None:
    cache = filled(root)
    _, rows, _ = map_rows(file_of(cache, SMALL.shards()[0]), np.dtype(np.float32))
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_the_budget_is_kept_to_the_byte_and_its_error_says_the_need() -> None:
    layout = Layout({"train": 10_000, "validation": 1_000}, {"train": 4, "validation": 1}, (50, 768), "fp32")
    need = 41_000 * 50 * 768 * 4 / 1e9
    layout.check_budget(need)
    with pytest.raises(ToolkitError, match=r"needs 6\.2976 GB \(10,000 train images x 4 views") as caught:
        layout.check_budget(np.nextafter(need, 0))
    assert "max_gb=7" in caught.value.fix
    assert "dtype=fp16" in caught.value.fix
    layout.check_budget(7)


def test_a_disk_without_room_is_refused_before_anything_is_written(small_disk: Path) -> None:
    layout = Layout({"train": 20}, {"train": 1}, (2**14,), "fp32")
    cache = BoundaryCache(small_disk / "caches", CONTENTS, layout)
    cache.check_space([Shard("train", 0, 0, 15)])
    with pytest.raises(ToolkitError, match=r"needs 0\.00131 GB more, but the disk has 0\.00105 GB free") as caught:
        cache.check_space(layout.shards())
    assert caught.value.where == str(cache.folder)
    assert not files_in(small_disk)


def test_a_disk_that_fills_up_is_an_error_and_leaves_no_file(small_disk: Path) -> None:
    layout = Layout({"train": 20, "validation": 4}, {"train": 1, "validation": 1}, (2**14,), "fp32")
    cache, (large, small) = BoundaryCache(small_disk, CONTENTS, layout), layout.shards()
    with pytest.raises(ToolkitError, match="No space left on device"):
        cache.write(large, rows_of(layout, large), 0)
    assert not files_in(small_disk)
    cache.write(small, rows_of(layout, small), 0)
    assert cache.missing([large, small]) == ([large], 0)


def test_a_place_that_is_taken_is_an_error_and_leaves_no_file(root: Path) -> None:
    cache, shard = BoundaryCache(root, CONTENTS, SMALL), SMALL.shards()[0]
    (cache.folder / "rank-00000" / shard.name / "something").mkdir(parents=True)
    with pytest.raises(ToolkitError, match="can't write here"):
        cache.write(shard, rows_of(SMALL, shard), 0)
    assert not files_in(root)


@pytest.mark.parametrize("value", [70_000.0, -70_000.0, float("nan")])
def test_what_fp16_cannot_hold_is_an_error_and_leaves_no_file(value: float, root: Path) -> None:
    layout = replace(SMALL, dtype="fp16")
    cache, shard = BoundaryCache(root, CONTENTS, layout), layout.shards()[0]
    rows = rows_of(layout, shard)
    rows[1, 0, 3] = value
    with pytest.raises(ToolkitError, match="not finite in fp16") as caught:
        cache.write(shard, rows.half(), 0)
    assert "dtype=fp32 or bf16" in caught.value.fix
    assert not files_in(root)


def resident_bytes() -> int:
    """Resident memory of this process, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_reading_a_large_cache_does_not_fill_the_memory(root: Path) -> None:
    layout = Layout({"train": 190}, {"train": 1}, WIDE["fp32"], "fp32")
    cache, shards = filled(root, layout), layout.shards()
    assert len(shards) == 6
    assert cache.missing(shards) == ([], 0)
    read = cache.split("train")
    order = random.Random(0).sample(range(190), 190)
    read.rows(1, order[:8])
    before, most = resident_bytes(), 0
    for start in range(0, 190, 8):
        read.rows(1, order[start : start + 8])
        most = max(most, resident_bytes())
    total = layout.bytes_of(shards)
    assert total > 100e6
    assert most - before < layout.bytes_of(shards[:1]) + 4e6


def test_every_copy_of_a_shard_is_looked_at(root: Path) -> None:
    cache, shard = filled(root), SMALL.shards()[0]
    path = file_of(cache, shard)
    damaged = path.read_bytes()[:-1] + b"?"
    other = cache.folder / "rank-00001" / shard.name
    other.parent.mkdir()
    for copy in (path, other):
        copy.write_bytes(damaged)
    assert cache.missing([shard]) == ([shard], 2)
    cache.write(shard, rows_of(SMALL, shard), 2)
    assert cache.split("train").rows(1, range(5)).equal(rows_of(SMALL, shard))


def test_the_same_rows_are_the_same_bytes(root: Path) -> None:
    cache, shard = filled(root), SMALL.shards()[0]
    first = file_of(cache, shard).read_bytes()
    for _ in range(5):
        cache.write(shard, rows_of(SMALL, shard), 0)
        assert file_of(cache, shard).read_bytes() == first
