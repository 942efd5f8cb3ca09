"""A function over a stream in threads: results in order, and no more at work than is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def mapped_ahead(work: Callable[[S], T], things: Iterable[S], *, threads: int, ahead: int) -> Iterator[T]:
    """Yield what a function gives for things, in order.

    Args:
        work: runs in a thread, several at once; what it raises is raised in its turn.
        things: taken a few before their turn.
        threads: at work at once.
        ahead: things that are taken before their turn, at most.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        pending: deque[Future[T]] = deque()
        try:
            for thing in things:
                pending.append(pool.submit(work, thing))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
