"""Requests that arrive by a schedule of their own and wait in a bounded queue until a session takes them up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.latency.pool import SEED, Pool
from toolkit.runtime.inputs import Feed, examples_in, part_of
from toolkit.serving.queue import BatchingQueue

Seconds = npt.NDArray[np.float64]
NAP = 0.1
"""Longest sleep, in seconds, before a worker looks whether it was told to stop."""
GROWTH = 0.05
"""Share of the window's requests by which the backlog of a server that keeps up does not grow."""


def poisson_arrivals(rate: float, start: float, end: float, seed: int) -> Seconds:
    """Times in (start, end) at which a Poisson process of ``rate`` a second has its events, in order."""
    rng = np.random.default_rng(seed)
    expected = rate * (end - start)
    times = np.zeros(0)
    while not times.size or times[-1] < end - start:
        gaps = rng.exponential(1 / rate, int(expected + 4 * math.sqrt(expected)) + 16)
        times = np.concatenate([times, (times[-1] if times.size else 0.0) + np.cumsum(gaps)])
    return start + times[times < end - start]


class RequestImages:
    """Which image of a pool each request is for; a request holds no more than its number."""

    def __init__(self, pool: Pool) -> None:
        places = [(shape, place) for shape, group in enumerate(pool.groups) for place in range(examples_in(group))]
        self._groups = pool.groups
        self._images = [places[at] for at in np.random.default_rng(SEED).permutation(len(places))]

    def shape(self, request: int) -> int:
        """Number of the shape that a request's image has; requests of one number can stand in one batch."""
        return self._images[request % len(self._images)][0]

    def batch(self, requests: Sequence[int]) -> Feed:
        """Images of requests of one shape."""
        group = self._groups[self.shape(requests[0])]
        places = [self._images[request % len(self._images)][1] for request in requests]
        return part_of(group, slice(places[0], places[0] + 1) if len(places) == 1 else places)


@dataclass(frozen=True)
class Limits:
    """What bounds a queue."""

    batch_size: int
    """Requests that a session takes up at once, at most."""
    waiting: int
    """Requests that wait at once, at most; what arrives then is dropped."""
    in_service: int
    """Requests that all sessions hold at once, at most."""
    drain_seconds: float
    """How long after the window the requests that still wait may take."""


class Queue:
    """A bounded queue that the clock fills by the schedule; the workers take from it in order of arrival.

    It needs no thread of its own, which would take a core from the sessions: whoever comes for requests first
    lets in those whose time has come. That is the same as if they came by themselves, since between two takes
    the queue only grows.

    Args:
        arrivals: times of the requests in seconds, in order; those before 0 are the lead-in.
        end: end of the window that is measured, which begins at 0.
        shape: number of a request's shape; only requests of one shape are taken together.
        limits: bounds.
        clock: seconds, on the scale of the arrivals.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        arrivals: Seconds,
        end: float,
        shape: Callable[[int], int],
        limits: Limits,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.arrivals, self.end, self.limits = arrivals, end, limits
        self.dropped = 0
        """Requests of the window that found the queue full."""
        self.stopped = False
        self._shape, self._clock, self._sleep = shape, clock, sleep
        self._queue: BatchingQueue[int] = BatchingQueue(limits.waiting)
        self._next = 0
        self._first = int(np.searchsorted(arrivals, 0.0))
        self._backlog: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return self._queue.waiting

    @property
    def requests(self) -> int:
        """Requests that arrive within the window."""
        return len(self.arrivals) - self._first

    @property
    def growth(self) -> int:
        """Requests by which the backlog grew over the window, those included that found the queue full."""
        return self._backlog.get("end", self.waiting) - self._backlog.get("start", 0) + self.dropped

    @property
    def saturated(self) -> bool:
        """Whether more came than was taken up, beyond what the chance of arrivals does to a server that keeps up."""
        return self.dropped > 0 or self.growth > max(2 * self.limits.in_service, GROWTH * self.requests)

    def take(self) -> list[int]:
        """Wait until requests wait and take the oldest, with more of its shape; empty when the run is over."""
        with self._lock:
            while not self.stopped:
                now = self._clock()
                self._admit(now)
                if self.stopped:
                    break
                if self.waiting:
                    return self._queue.take(self.limits.batch_size)
                until = self.arrivals[self._next] if self._next < len(self.arrivals) else self.end
                self._sleep(max(0.0, min(float(until) - now, NAP)))
            return []

    def _admit(self, now: float) -> None:
        """Let in what has arrived by now, and notice the window's ends.

        The run is over once nothing more can come, or when what waits at the window's end can't come back.
        """
        while self._next < len(self.arrivals) and self.arrivals[self._next] <= now:
            if self._next >= self._first:
                self._backlog.setdefault("start", self.waiting)
            if not self._queue.put(self._next, self._shape(self._next)) and self._next >= self._first:
                self.dropped += 1
            self._next += 1
        if now >= self.end:
            self._backlog.setdefault("end", self.waiting)
            late = now > self.end + self.limits.drain_seconds
            self.stopped = self.stopped or not self.waiting or self.saturated or late
