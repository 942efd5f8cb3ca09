"""Inspections are remembered, for as long as a file is what it was, and never in the place of looking."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data.inspection import Inspected, inspect_items
from toolkit.data.listing import ListedImage, WholeFile
from toolkit.data.remembered import INSPECTED, Remembered
from toolkit.runtime.cache_folder import CACHE, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return cache_folder(INSPECTED)


@pytest.fixture
def items(tmp_path: Path) -> list[ListedImage]:
    rng, found = np.random.default_rng(0), []
    (tmp_path / "data").mkdir()
    for number in range(7):
        path = tmp_path / "data" / (f"{number}.png" if number != 5 else os.fsdecode(b"no utf-8 \xff.png"))
        mode = (rng.integers(0, 65536, (9, 8), np.uint16), rng.integers(0, 256, (9, 8, 3), np.uint8))[number % 2]
        Image.fromarray(mode).save(path)
        found.append(ListedImage("train", "a", str(path), WholeFile(str(path))))
    Path(found[3].name).write_bytes(b"no image")
    return found


def inspected(items: list[ListedImage], settled: float = 0.0) -> tuple[list[Inspected], int]:
    """What inspecting gives, and how many files were read for it."""
    memory = Remembered(Path(items[0].name).parent, settled)
    before = memory.stamps_of([item.content for item in items])
    known = memory.known([item.name for item in items], before)
    read = sum(each is None for each in known)
    return list(inspect_items(items, memory=memory)), read


def test_a_second_look_reads_nothing_and_says_the_same(items: list[ListedImage], cache: Path) -> None:
    first, read = inspected(items)
    assert read == 7
    again, read = inspected(items)
    assert read == 0
    assert again == first
    assert first[0].found is not None
    assert first[3].error
    assert len(list(cache.glob("*.sqlite"))) == 1


def test_a_file_that_changed_is_inspected_again(items: list[ListedImage]) -> None:
    first, _ = inspected(items)
    path = Path(items[1].name)
    status = path.stat()
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])  # of the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # and of the same age, to who asks for that alone
    again, read = inspected(items)
    assert read == 1
    assert again[1].sha256 != first[1].sha256
    assert again[2:] == first[2:]


def test_what_is_too_young_to_be_sure_of_is_not_remembered(items: list[ListedImage]) -> None:
    inspected(items, settled=60.0)
    assert inspected(items, settled=60.0)[1] == 7


def test_a_damaged_memory_is_no_memory(items: list[ListedImage], cache: Path) -> None:
    first, _ = inspected(items)
    (base,) = cache.glob("*.sqlite")
    for damage in (b"no database", b""):
        base.write_bytes(damage)
        assert inspected(items)[0] == first
    with sqlite3.connect(base) as opened:
        opened.execute("UPDATE images SET seen = '[1]'")
    assert inspected(items)[0] == first


def test_a_place_that_can_t_be_written_is_no_matter(
    items: list[ListedImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    assert inspected(items)[1] == inspected(items)[1] == 7
