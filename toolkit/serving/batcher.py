"""Requests of many callers in batches through a pool's sessions, the way ``tune`` measured them.

A session that is free takes the oldest request and those of its shapes that wait already, up to the batch size; it
doesn't wait for more (:mod:`export.latency.queueing` does the same by a schedule).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from toolkit.runtime.inputs import Inputs, bytes_of, images_a_batch, shapes_of, stacked
from toolkit.runtime.session import Outputs, Session
from toolkit.serving.pool import BundlePool
from toolkit.serving.queue import BatchingQueue
from toolkit.serving.refusal import Reason, Refused


@dataclass(frozen=True)
class BatchRun:
    """What a batch took, for metrics."""

    images: int
    waited: Sequence[float]
    """Seconds that each image waited for a session."""
    seconds: float
    """Of the session's run."""


@dataclass(frozen=True)
class _Request:
    example: Inputs
    done: Future[Outputs]
    deadline: float
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue, and a thread for each session of a pool.

    Args:
        pool: the sessions; closed with the batcher.
        waiting: requests that wait at once, at most.
        observe: told of every batch, in a session's thread.
    """

    def __init__(
        self, pool: BundlePool, waiting: int, observe: Callable[[BatchRun], object] = lambda run: None
    ) -> None:
        self.pool, self._observe = pool, observe
        self._queue: BatchingQueue[_Request] = BatchingQueue(waiting)
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

    def submit(self, example: Inputs, deadline: float, done: Future[Outputs]) -> None:
        """Have an example computed.

        Args:
            example: as the graph takes it.
            deadline: of :func:`time.monotonic`; an example that no session took by then is given up.
            done: gets the example's outputs by name, without the batch axis, or :class:`Refused`.
        """
        request = _Request(example, done, deadline)
        with self._changed:
            admitted = not self._closed and self._queue.put(request, shapes_of(example))
            if admitted:
                self._changed.notify()
        if not admitted:
            reason = Reason.UNAVAILABLE if self._closed else Reason.OVERLOADED
            done.set_exception(Refused(reason, "the queue is closed" if self._closed else "the queue is full"))

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
            live = [request for request in batch if _is_wanted(request)]
            if live:
                self._run(session, live)

    def _take(self) -> list[_Request]:
        """Wait for requests and take a batch; empty when the batcher is closed and nothing waits."""
        with self._changed:
            while not (oldest := self._queue.oldest()):
                if self._closed:
                    return []
                self._changed.wait()
            return self._queue.take(images_a_batch(bytes_of(oldest.example), self.pool.batch_size))

    def _run(self, session: Session, batch: list[_Request]) -> None:
        started = time.monotonic()
        try:
            outputs = session.run(stacked(request.example for request in batch))
        except Exception as error:  # the thread serves the next requests too
            if len(batch) > 1:  # one may be at fault for all
                for request in batch:
                    self._run(session, [request])
            else:
                batch[0].done.set_exception(error)
            return
        seconds = time.monotonic() - started
        self._observe(BatchRun(len(batch), [started - request.arrived for request in batch], seconds))
        for row, request in enumerate(batch):
            request.done.set_result({name: values[row] for name, values in outputs.items()})


def _is_wanted(request: _Request) -> bool:
    """Whether anybody still waits for a request; tells who waited too long."""
    if not request.done.set_running_or_notify_cancel():
        return False
    if request.deadline > time.monotonic():
        return True
    request.done.set_exception(Refused(Reason.DEADLINE, "no session was free before the request's deadline"))
    return False
