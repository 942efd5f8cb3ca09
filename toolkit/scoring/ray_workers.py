"""What runs on a Ray cluster: tasks that decode, and actors that each score whole shards in one session."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import bytes_of, windows
from toolkit.scoring.engine import Facts
from toolkit.scoring.inputs import Item
from toolkit.scoring.job import Job
from toolkit.scoring.listing import items_in, opened_listing
from toolkit.scoring.read_item import Retries, read_item
from toolkit.scoring.shard_file import Done, done_shard
from toolkit.scoring.shard_writer import ShardWriter
from toolkit.scoring.store import Store
from toolkit.serving.classifier import Classifier
from toolkit.serving.predictor import Example, Predicted, read_example

HELD_BYTES = 512 << 20
"""Decoded images that a session has in the object store at once, at most, but for one batch that is larger."""
PATIENCE = 60.0
"""Seconds for a batch to be decoded elsewhere, before a session does so: after nodes died no core may be left."""
ATTEMPTS = 3
"""Further ones, at a batch whose decoder died; a session that dies is started again by Ray Data, however often."""


@dataclass(frozen=True)
class Assignment:
    """What every session of a job is opened with."""

    bundle: Path
    """On all nodes."""
    bundle_sha256: str
    provider: str | None
    precision: str | None
    threads: int
    batch_size: int | None

    def opened(self) -> Classifier:
        """One session.

        Raises:
            ToolkitError: there is no such bundle on this node, or it is another one.
        """
        return Classifier.open(
            _bundle(self.bundle, self.bundle_sha256),
            provider=self.provider,
            precision=self.precision,
            threads=self.threads,
            sessions=1,
            batch_size=self.batch_size,
        )


@cache
def _bundle(path: Path, sha256: str) -> Bundle:
    """The bundle, opened once a process."""
    bundle = Bundle(path)
    if bundle.manifest.manifest_sha256 != sha256:
        where, fix = f"{path} on {socket.gethostname()}", "give all nodes the same one"
        raise ToolkitError("this node has another bundle", where=where, fix=fix)
    return bundle


def session_facts(assignment: Assignment) -> Facts:
    """What a session on the cluster is; a task."""
    with assignment.opened() as classifier:
        return Facts.of(classifier)


@dataclass(frozen=True)
class Decoded:
    """Images as the graph takes them, by run."""

    windows: list[list[Example]]
    retried: int

    @property
    def bytes(self) -> int:
        """What they hold."""
        return sum(bytes_of(each) for window in self.windows for each in window if not isinstance(each, ToolkitError))


def decoded(items: Sequence[Item], assignment: Assignment, kind: str, reduced_jpeg: bool) -> Decoded:
    """Read, decode and preprocess a batch; a task on one core.

    Args:
        items: as many as a session takes at once, at most.
        assignment: names the bundle.
        kind: how the graph takes its image; see :attr:`toolkit.runtime.session.Session.input`.
        reduced_jpeg: whether JPEGs are decoded no larger than the network needs them.
    """
    bundle, retries = _bundle(assignment.bundle, assignment.bundle_sha256), Retries()
    reader = bundle.reader(kind, reduced_jpeg=reduced_jpeg)
    sources = (partial(read_item, item, retries, takes_image=reader.takes_image) for item in items)
    cut = list(windows((read_example(reader, source) for source in sources), len(items)))
    return Decoded(cut, retries.taken())


class ShardScorer:
    """Scores a shard a call, in a session that stays open; an actor of Ray Data's.

    Args:
        assignment: what the session is opened with.
        job: whose shards they are.
        out: where to, as all nodes see it.
        ahead: batches that are decoded at once for this session, at most.
        patience: seconds that it waits for one.
    """

    def __init__(self, assignment: Assignment, job: Job, out: str, ahead: int, patience: float = PATIENCE) -> None:
        self._assignment, self._job, self._out, self._ahead = assignment, job, out, ahead
        self._patience, self._alone = patience, False
        self._decode = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(decoded).remote
        self._largest = 1
        self._held = ExitStack()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score one shard; mistakes are an answer too, since Ray would wrap what is raised.

        Args:
            batch: ``shard``, one number.

        Returns:
            ``shard``, and ``answer``: a :class:`Done` or a :class:`ToolkitError`.
        """
        shard = int(batch["shard"][0])
        answer: Done | ToolkitError
        try:
            answer = done_shard(Store(self._out), shard) or self._scored(shard)  # an attempt that died may have done it
        except ToolkitError as error:
            answer = error
        except RayError as error:
            answer = ToolkitError(
                f"a batch can't be decoded: {reason_of(error)}", where=f"shard {shard}", fix="see Ray's logs"
            )
        answers = np.empty(1, object)
        answers[0] = answer
        return {"shard": np.array([shard]), "answer": answers}

    @cached_property
    def _classifier(self) -> Classifier:
        return self._assignment.opened()

    @cached_property
    def _writer(self) -> ShardWriter:
        return ShardWriter(Store(self._out), self._classifier.bundle, self._job)

    @cached_property
    def _listing(self) -> Any:
        return self._held.enter_context(opened_listing(Store(self._out)))

    def _scored(self, shard: int) -> Done:
        items = items_in(self._listing, shard)
        retried: list[int] = []
        predicted: list[Predicted] = list(self._classifier.of_windows(self._windows(items, retried)))
        return self._writer.write(shard, items, predicted, sum(retried))

    def _windows(self, items: Sequence[Item], retried: list[int]) -> Iterator[list[Example]]:
        """What goes into the session's runs, in order, decoded by tasks: few enough that their bytes stay bounded."""
        pool = self._classifier.pool
        most = pool.batch_size
        pending: deque[tuple[Any, tuple[Any, ...]]] = deque()

        def taken() -> Iterator[list[Example]]:
            task, arguments = pending.popleft()
            ready, _ = ray.wait([task], timeout=0 if self._alone else self._patience)
            self._alone = not ready
            found = ray.get(task) if ready else decoded(*arguments)
            self._largest = max(self._largest, found.bytes)
            retried.append(found.retried)
            yield from found.windows

        for start in range(0, len(items), most):
            while len(pending) >= max(1, min(self._ahead, HELD_BYTES // self._largest)):
                yield from taken()
            arguments = items[start : start + most], self._assignment, pool.input, pool.reduced_jpeg
            pending.append((self._decode(*arguments), arguments))
        while pending:
            yield from taken()


def reason_of(error: RayError) -> str:
    """What Ray says went wrong, in a line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
