"""Requests that wait for a session, which takes the oldest and more of the same shapes."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchingQueue(Generic[T]):
    """A bounded queue of requests; only requests whose inputs have the same shapes are taken together.

    It holds no lock of its own: whoever shares it guards it.

    Args:
        most: requests that wait at once, at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting = 0
        self._arrived = 0
        self._by_shapes: dict[Hashable, deque[tuple[int, T]]] = {}

    def put(self, request: T, shapes: Hashable) -> bool:
        """Let a request in, unless the queue is full; whether it was let in."""
        if self.waiting >= self.most:
            return False
        self._by_shapes.setdefault(shapes, deque()).append((self._arrived, request))
        self._arrived += 1
        self.waiting += 1
        return True

    def oldest(self) -> T | None:
        """The request that :meth:`take` would begin with; None if none waits."""
        return self._by_shapes[self._first_shapes()][0][1] if self.waiting else None

    def take(self, batch_size: int) -> list[T]:
        """The oldest request, and up to ``batch_size`` of its shapes in order of arrival; empty if none waits."""
        if not self.waiting:
            return []
        shapes = self._first_shapes()
        line = self._by_shapes[shapes]
        taken = [line.popleft()[1] for _ in range(min(batch_size, len(line)))]
        if not line:
            del self._by_shapes[shapes]
        self.waiting -= len(taken)
        return taken

    def _first_shapes(self) -> Hashable:
        """The shapes of the oldest request."""
        return min(self._by_shapes, key=lambda each: self._by_shapes[each][0][0])
