"""Requests of many callers in batches through a pool's sessions, the way ``tune`` measured them.

A session that is free takes the oldest request and those of its shapes that wait already, up to the batch size; it
doesn't wait for more (:mod:`export.latency.queueing` does the same by a schedule).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from toolkit.runtime.inputs import Inputs, batch_key, bytes_of, images_a_batch, stacked
from toolkit.runtime.session import Outputs, Session
from toolkit.serving.pool import BundlePool
from toolkit.serving.queue import BatchingQueue
from toolkit.serving.refusal import Reason, Refused

LATE = "no session was free before the request's deadline"


@dataclass(frozen=True)
class BatchRun:
    """What a batch took, for metrics."""

    images: int
    waited: Sequence[float]
    """Seconds that each image waited for a session."""
    seconds: float
    """Of the session's run."""


class Waiter(Protocol):
    """Who waits for an example's outputs, as a future does."""

    def done(self) -> bool:
        """Whether it waits no longer."""


W = TypeVar("W", bound=Waiter)
Outcome = Outputs | Exception
"""An example's outputs by name, without the batch axis; or why there are none."""


@dataclass(frozen=True)
class _Request(Generic[W]):
    example: Inputs
    waiter: W
    deadline: float
    arrived: float = field(default_factory=time.monotonic)


class Batcher(Generic[W]):
    """A queue, and a thread for each session of a pool.

    Args:
        pool: the sessions; closed with the batcher.
        waiting: requests that wait at once, at most.
        deliver: given all outcomes of a batch at once, in a session's thread: one call, since each that reaches into
            another thread's event loop costs both a turn at Python's lock.
        observe: told of every batch, in a session's thread.
    """

    def __init__(
        self,
        pool: BundlePool,
        waiting: int,
        deliver: Callable[[Sequence[tuple[W, Outcome]]], object],
        observe: Callable[[BatchRun], object] = lambda run: None,
    ) -> None:
        self.pool, self._deliver, self._observe = pool, deliver, observe
        self._queue: BatchingQueue[_Request[W]] = BatchingQueue(waiting)
        self._changed = threading.Condition()
        self._closed = False
        names = [f"batch-{place}" for place in range(len(pool.sessions))]
        self._threads = [
            threading.Thread(target=self._work, args=(session,), name=name, daemon=True)
            for session, name in zip(pool.sessions, names, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no session has taken yet."""
        return self._queue.waiting

    def submit(self, example: Inputs, deadline: float, waiter: W) -> None:
        """Have an example computed; the outcome is delivered.

        Args:
            example: as the graph takes it.
            deadline: of :func:`time.monotonic`; an example that no session took by then is given up.
            waiter: who waits.

        Raises:
            Refused: the queue is full, or closed.
        """
        request = _Request(example, waiter, deadline)
        with self._changed:
            if self._closed:
                raise Refused(Reason.UNAVAILABLE, "the queue is closed")
            if not self._queue.put(request, batch_key(example)):
                raise Refused(Reason.OVERLOADED, "the queue is full")
            self._changed.notify()

    def close(self) -> None:
        """Compute what waits, and end the threads and the pool."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.pool.close()

    def _work(self, session: Session) -> None:
        while batch := self._take():
            now = time.monotonic()
            wanted = [request for request in batch if not request.waiter.done()]
            late = [request for request in wanted if request.deadline <= now]
            if late:
                self._deliver([(request.waiter, Refused(Reason.DEADLINE, LATE)) for request in late])
            if live := [request for request in wanted if request.deadline > now]:
                self._deliver(self._run(session, live))

    def _take(self) -> list[_Request[W]]:
        """Wait for requests and take a batch; empty when the batcher is closed and nothing waits."""
        with self._changed:
            while not (oldest := self._queue.oldest()):
                if self._closed:
                    return []
                self._changed.wait()
            return self._queue.take(images_a_batch(bytes_of(oldest.example), self.pool.batch_size))

    def _run(self, session: Session, batch: Sequence[_Request[W]]) -> list[tuple[W, Outcome]]:
        started = time.monotonic()
        try:
            outputs = session.run(stacked(request.example for request in batch))
        except Exception as error:  # the thread serves the next requests too
            if len(batch) == 1:
                return [(batch[0].waiter, error)]
            return [outcome for request in batch for outcome in self._run(session, [request])]  # one may be at fault
        seconds = time.monotonic() - started
        self._observe(BatchRun(len(batch), [started - request.arrived for request in batch], seconds))
        return [
            (request.waiter, {name: values[row] for name, values in outputs.items()})
            for row, request in enumerate(batch)
        ]
