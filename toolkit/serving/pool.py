"""Sessions side by side, each in a thread of its own: measured by ``tune``, run by ``predict`` and by servers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Feed
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.precision import SPECS
from toolkit.runtime.providers import ON_CPU
from toolkit.runtime.serving import Serving
from toolkit.runtime.session import Outputs, Session

BATCH_SIZE = 32
"""Images that a session takes at once, where nothing was tuned."""
AHEAD = 2
"""Feeds a session that :meth:`SessionPool.map` takes from its iterator before their turn."""
T = TypeVar("T")


class Runs(Protocol):
    """What computes a feed: a session, or a runner that is measured."""

    @property
    def run(self) -> Callable[[Any], Any]:
        """Runs one feed and returns its outputs."""


R = TypeVar("R", bound=Runs)


class SessionPool(Generic[R]):
    """Sessions that run at once; ONNX Runtime lets go of Python's lock meanwhile.

    Use it as a context manager, or close it.

    Args:
        sessions: one or more.

    Raises:
        ToolkitError: none.
    """

    def __init__(self, sessions: Sequence[R]) -> None:
        if not sessions:
            raise ToolkitError("no session serves nothing", where="sessions", fix="give 1 or more")
        self.sessions = tuple(sessions)
        self._free: SimpleQueue[R] = SimpleQueue()
        for session in self.sessions:
            self._free.put(session)
        self._threads = ThreadPoolExecutor(len(self.sessions), thread_name_prefix="session")

    def submit(self, feed: Feed) -> Future[Any]:
        """Have the next free session compute a feed."""
        return self._threads.submit(self._run, feed)

    def map(self, feeds: Iterable[Feed]) -> Iterator[Any]:
        """What the sessions give for feeds, in order; feeds are taken a few ahead, so that no session waits."""
        pending: deque[Future[Any]] = deque()
        for feed in feeds:
            pending.append(self.submit(feed))
            if len(pending) >= AHEAD * len(self.sessions):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def each(self, work: Callable[[R, int], T]) -> list[T]:
        """Have every session do some work of its own at the same time.

        Args:
            work: told a session and its place; it ends by itself.

        Returns:
            What each gave.

        Raises:
            Exception: the first that a session raised, after all have ended.
        """
        futures = [self._threads.submit(work, session, place) for place, session in enumerate(self.sessions)]
        failures = [future.exception() for future in futures]
        for failure in failures:
            if failure is not None:
                raise failure
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads, after what they are doing."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, feed: Feed) -> Any:
        session = self._free.get()
        try:
            return session.run(feed)
        finally:
            self._free.put(session)


class BundlePool(SessionPool[Session]):
    """Sessions of a bundle's graph as it is to be served."""

    def __init__(self, sessions: Sequence[Session], batch_size: int, *, reduced_jpeg: bool = False) -> None:
        super().__init__(sessions)
        self.batch_size = min(batch_size, sessions[0].largest_batch or batch_size)
        """Images that a session takes at once, at most."""
        self.reduced_jpeg = reduced_jpeg
        """Whether JPEGs are decoded at the scale that the network needs."""

    @property
    def input(self) -> str:
        """How the graph takes its image; see :attr:`toolkit.runtime.session.Session.input`."""
        return self.sessions[0].input

    @property
    def precision(self) -> str:
        """Of the graph that the sessions run."""
        file = self.sessions[0].where.name
        return next(spec.name for spec in SPECS.values() if spec.file == file)

    def run(self, feed: Feed) -> Outputs:
        """Compute a feed in the next free session."""
        outputs: Outputs = self.submit(feed).result()
        return outputs


def open_pool(
    bundle: Bundle,
    *,
    provider: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    sessions: int | None = None,
    batch_size: int | None = None,
    serving: Serving | None = None,
) -> BundlePool:
    """Open a bundle as ``serving.json`` has it, where that fits what is asked for; else one session on all cores.

    Args:
        bundle: opened.
        provider: to run on.
        precision: of the graph.
        threads: of a session.
        sessions: side by side.
        batch_size: images that a session takes at once, at most.
        serving: settings in place of those of ``serving.json``.

    Raises:
        ToolkitError: what :meth:`toolkit.runtime.bundle.Bundle.session` raises.
    """
    tuned = serving or bundle.tuned_for(provider, precision)
    options: dict[str, Any] = {}
    if tuned:
        cores = usable_cores()
        provider, precision, threads = tuned.provider, tuned.precision, threads or min(tuned.threads, cores)
        beside = cores // threads if tuned.provider in ON_CPU else tuned.sessions
        sessions = sessions or max(1, min(tuned.sessions, beside))
        batch_size = batch_size or tuned.batch_size
        options = {"session_options": tuned.session_options, "provider_options": tuned.provider_options}
    most = batch_size or BATCH_SIZE
    with bundle.holding():  # each file is read and hashed once for all sessions
        opened = [
            bundle.session(provider=provider, precision=precision, threads=threads, batch_size=most, **options)
            for _ in range(sessions or 1)
        ]
    return BundlePool(opened, most, reduced_jpeg=bool(tuned and tuned.reduced_jpeg))
