"""Reading ahead of what is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from toolkit.training.activation_source import one_ahead


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
