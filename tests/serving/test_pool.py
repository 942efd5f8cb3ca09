from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.serving.pool import SessionPool, open_pool


class Fake:
    """A session that counts how many of its kind run at once."""

    running, most, lock = 0, 0, threading.Lock()

    def run(self, feed: Any) -> Any:
        with self.lock:
            Fake.running += 1
            Fake.most = max(Fake.most, Fake.running)
        time.sleep(0.01)
        with self.lock:
            Fake.running -= 1
        if feed["x"] is None:
            raise ToolkitError("no", where="x", fix="give one")
        return feed["x"]


@pytest.mark.parametrize("sessions", [1, 3])
def test_results_come_in_order_and_no_more_run_at_once_than_there_are_sessions(sessions: int) -> None:
    Fake.most = 0
    with SessionPool([Fake() for _ in range(sessions)]) as pool:
        assert list(pool.map({"x": number} for number in range(20))) == list(range(20))
    assert Fake.most == sessions


def test_feeds_are_taken_a_few_ahead_of_what_is_asked_for() -> None:
    taken: list[int] = []

    def feeds() -> Any:
        for number in range(20):
            taken.append(number)
            yield {"x": number}

    with SessionPool([Fake(), Fake()]) as pool:
        results = pool.map(feeds())
        assert next(results) == 0
        assert len(taken) <= 4
        assert list(results) == list(range(1, 20))


def test_what_a_session_raises_arrives() -> None:
    with SessionPool([Fake(), Fake()]) as pool:
        with pytest.raises(ToolkitError, match="no"):
            list(pool.map([{"x": 1}, {"x": None}]))
        with pytest.raises(ToolkitError, match="no"):
            pool.each(lambda session, place: session.run({"x": place or None}))
        assert pool.each(lambda session, place: place) == [0, 1]


def test_a_pool_of_no_sessions_is_refused() -> None:
    with pytest.raises(ToolkitError, match="no session"):
        SessionPool([])


def test_a_bundle_that_was_not_tuned_has_one_session(bundle: Path) -> None:
    opened = Bundle(bundle)
    with open_pool(opened, threads=1) as pool, open_pool(opened, threads=1, sessions=3, batch_size=2) as several:
        assert [session.threads for session in pool.sessions] == [1]
        assert (pool.batch_size, several.batch_size) == (32, 2)
        assert len(several.sessions) == 3
        feed = {"pixel_values": opened.golden().inputs["pixel_values"]}
        one, other = pool.run(feed), several.run(feed)
    assert all(np.array_equal(one[name], other[name]) for name in one)
