from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from counted import Counted
from PIL import Image

from toolkit.data.inspection import CHUNK, Inspected, _ahead, inspect_content, inspect_items
from toolkit.data.listing import ListedImage, WholeFile
from toolkit.errors import ToolkitError
from toolkit.runtime.machine import usable_cores


def items_of(paths: list[Path]) -> list[ListedImage]:
    return [ListedImage("train", "a", str(path), WholeFile(str(path))) for path in paths]


def test_images_are_inspected_in_the_order_given(color_data: Path, tmp_path: Path) -> None:
    paths = [*sorted(color_data.rglob("*.png")), tmp_path / "missing.png"]
    counted = Counted()
    inspected = list(inspect_items(items_of(paths), counted))
    assert inspected == [inspect_content(WholeFile(str(path))) for path in paths]
    for path, result in zip(paths[:-1], inspected, strict=False):
        with Image.open(path) as image:
            assert (result.size, result.mode, result.error) == (image.size, image.mode, None)
        assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert inspected[-1] == Inspected("", error="No such file or directory")
    assert counted.seen == [(done, len(paths)) for done in range(1, len(paths) + 1)]


@dataclass(frozen=True)
class CountedReads:
    """Remembers that it was read."""

    read_so_far: list[int]
    content: bytes

    def read(self) -> bytes:
        self.read_so_far.append(1)
        return self.content


def test_no_more_than_a_window_is_read_ahead(color_data: Path) -> None:
    content, read = next(color_data.rglob("*.png")).read_bytes(), list[int]()
    items = [ListedImage("train", "a", str(index), CountedReads(read, content)) for index in range(5000)]
    results: Iterator[Inspected] = inspect_items(items)
    next(results)
    assert 1 <= len(read) <= 80 * usable_cores()
    results.close()  # type: ignore[attr-defined]
    assert len(read) <= 80 * usable_cores()


def test_content_that_an_index_did_not_promise_is_refused(color_data: Path) -> None:
    path = next(color_data.rglob("*.png"))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [
        each.error for each in inspect_items([ListedImage("train", "a", str(path), WholeFile(str(path)), "", right)])
    ] == [None]
    with pytest.raises(ToolkitError, match="promises other content") as caught:
        list(inspect_items([ListedImage("train", "a", str(path), WholeFile(str(path)), "", "0" * 64)]))
    assert caught.value.where == str(path)
    assert "toolkit data index" in caught.value.fix


def test_a_thread_of_its_own_may_end_it(tmp_path: Path) -> None:
    """As the garbage collector does in whichever thread it runs, where nobody reads on."""
    paths = [tmp_path / f"{number}.png" for number in range(2 * CHUNK)]
    for number, path in enumerate(paths):
        Image.new("L", (8, 8) if number < CHUNK else (9, 9)).save(path)
    one_was_read, ended = threading.Event(), threading.Event()

    def look(image: Image.Image) -> int:
        if image.size == (9, 9) and not ended.is_set():
            assert one_was_read.wait(60)
            inspections.close()
            ended.set()
        return 0

    inspections: Any = _ahead(items_of(paths), look)
    next(inspections)
    one_was_read.set()
    assert ended.wait(60)
