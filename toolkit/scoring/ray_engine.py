"""Shards by the sessions of a Ray cluster.

A shard is the unit: Ray Data hands its number to an actor, which has tasks decode its images, batch by batch, and
writes shard and marker itself. Rows don't travel through Ray Data's operators, though they could (kept in order, then
repartitioned into shards): its driver takes about 14 ms of a core for a block that passes a task and an actor, which
with a batch a block would be 2,300 images a second for a whole cluster. By shard it is no limit: docs/scoring.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from toolkit.data.remote import absolute
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.providers import ON_CPU
from toolkit.runtime.ray_cluster import connected
from toolkit.scoring.engine import Engine
from toolkit.scoring.job import Job
from toolkit.scoring.options import UNTUNED_BATCH, ScoringOptions
from toolkit.scoring.ray_workers import Assignment, ShardScorer, reason_of, session_facts
from toolkit.scoring.shard_file import Done
from toolkit.scoring.store import Store

THREADS = 4
"""Of a session on CPUs, where nothing was tuned: each has the weights to itself."""


@dataclass(frozen=True)
class Layout:
    """How a job lies on a cluster."""

    sessions: int
    threads: int
    """Of a session."""
    gpu: bool
    ahead: int
    """Batches that are decoded at once for a session, at most."""

    @property
    def resources(self) -> dict[str, int]:
        """What a session's actor takes: its threads' cores, or a GPU and a core beside it."""
        return {"num_cpus": 1, "num_gpus": 1} if self.gpu else {"num_cpus": self.threads}


def layout_of(nodes: Sequence[tuple[int, int]], threads: int, *, gpu: bool) -> Layout:
    """A session a GPU, or as many sessions as leave each a core of its node for decoding.

    Args:
        nodes: cores and GPUs of each.
        threads: of a session; fewer where no node has so many and one more.
        gpu: whether sessions are on GPUs.

    Raises:
        ToolkitError: no GPU, or no core for decoding.
    """
    cores = sum(cpus for cpus, _ in nodes)
    if gpu:
        sessions = sum(gpus for _, gpus in nodes)
        spare = cores - sessions
        if not sessions:
            raise ToolkitError("no node of the Ray cluster has a GPU", where="--engine ray", fix="add --provider cpu")
    else:
        threads = min(threads, max(cpus for cpus, _ in nodes) - 1)
        sessions = sum(cpus // (threads + 1) for cpus, _ in nodes)
        spare = cores - sessions * threads
    if spare < 1 or threads < 1:
        what = f"the Ray cluster has {cores} cores, and none is left for decoding"
        raise ToolkitError(what, where="--engine ray", fix="add nodes, or start Ray with --num-cpus 2 or more")
    return Layout(sessions, threads, gpu, -(-spare // sessions) + 1)


@contextmanager
def ray_engine(bundle: Bundle, options: ScoringOptions) -> Iterator[Engine]:
    """Connect to a cluster, or start a Ray of this machine, for as long as the job takes.

    Raises:
        ToolkitError: no cluster at the address, nothing there to compute on, or another bundle on a node.
    """
    with connected(options.address):
        try:
            yield RayEngine(bundle, options)
        except RayError as error:
            what, fix = f"the Ray cluster failed: {reason_of(error)}", "see Ray's logs; the same command goes on"
            raise ToolkitError(what, where=options.address or "--engine ray", fix=fix) from error


class RayEngine:
    """See :class:`toolkit.scoring.engine.Engine`; bundle, images and output lie where all nodes see them."""

    def __init__(self, bundle: Bundle, options: ScoringOptions) -> None:
        tuned = bundle.tuned_for(options.provider, options.precision)
        provider = options.provider or (tuned.provider if tuned else "cpu")
        nodes = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        self._layout = layout_of(
            [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes],
            options.threads or (tuned.threads if tuned else THREADS),
            gpu=provider not in ON_CPU,
        )
        self._assignment = Assignment(
            bundle.path.absolute(),
            str(bundle.manifest.manifest_sha256),
            options.provider,
            options.precision,
            self._layout.threads,
            options.batch_size if tuned else options.batch_size or UNTUNED_BATCH,
        )
        try:
            self.facts = ray.get(ray.remote(**self._layout.resources)(session_facts).remote(self._assignment))
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, ToolkitError) else error from None

    def shards(
        self, store: Store, job: Job, left: Sequence[int], told: Callable[[int], object]
    ) -> Iterator[tuple[int, Done]]:
        """See :meth:`toolkit.scoring.engine.Engine.shards`; an actor that dies starts again, and its shard with it."""
        layout = self._layout
        sessions = min(layout.sessions, len(left))
        _be_silent()
        scored = ray.data.from_items([{"shard": shard} for shard in left], override_num_blocks=len(left)).map_batches(
            ShardScorer,
            fn_constructor_args=(self._assignment, job, absolute(store.url), layout.ahead),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=sessions, max_tasks_in_flight_per_actor=2),
            **layout.resources,
        )
        for row in scored.iter_rows():
            answer = row["answer"]
            if isinstance(answer, ToolkitError):
                raise answer
            store.renew()
            told(answer.rows)
            yield int(row["shard"]), answer


def _be_silent() -> None:
    """Leave the console to the job's own progress; what Ray has to say stands in its logs."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
