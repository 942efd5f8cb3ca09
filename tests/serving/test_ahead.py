from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from toolkit.serving.ahead import mapped_ahead


def test_results_come_in_order_and_no_more_is_taken_than_asked() -> None:
    taken = 0

    def things() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    found = []
    for number in mapped_ahead(lambda each: (time.sleep(0.001 * (each % 3)), each)[1], things(), threads=4, ahead=10):
        found.append(number)
        assert taken <= len(found) + 10
    assert found == list(range(100))


def test_what_a_thread_raises_is_raised_in_its_turn() -> None:
    results = mapped_ahead(lambda each: 1 // (each - 3), range(10), threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_where_nobody_asks_for_more() -> None:
    results = mapped_ahead(lambda each: each, iter(range(10**9)), threads=2, ahead=4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    for _ in range(200):
        if not any(thread.name.startswith("reader") for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    raise AssertionError("a reader's thread goes on")
