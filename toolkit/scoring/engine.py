"""What computes the shards of a job: the sessions of this process, or those of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolkit.scoring.job import Job
from toolkit.scoring.shard_file import Done
from toolkit.scoring.store import Store
from toolkit.serving.classifier import Classifier


@dataclass(frozen=True)
class Facts:
    """What is known of the sessions that will compute."""

    provider: str
    precision: str
    outputs: frozenset[str]
    """Names of the graph's."""

    @classmethod
    def of(cls, classifier: Classifier) -> Facts:
        """Facts of sessions that are open."""
        session = classifier.pool.sessions[0]
        return cls(session.provider, classifier.pool.precision, frozenset(session.outputs))


class Engine(Protocol):
    """Scores shards; rows are the same whichever engine does, since a batch never holds rows of two shards."""

    facts: Facts

    def shards(
        self, store: Store, job: Job, left: Sequence[int], told: Callable[[int], object]
    ) -> Iterator[tuple[int, Done]]:
        """Score shards, and yield each with its marker once both are written, in any order.

        Args:
            store: where to; held by this process.
            job: whose list says what a shard holds.
            left: numbers of the shards, in order.
            told: how many further rows have been scored.

        Raises:
            ToolkitError: the output can't be written, the bundle changed meanwhile, or a cluster that fails.
        """
