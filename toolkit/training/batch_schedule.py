"""Which images go through the model when, and on which process: a function of seed, epoch and step alone.

An epoch is a permutation of the split, cut into micro-batches; a step is a run of micro-batches
that are dealt to the processes in turn. Nothing here depends on workers, on what was loaded
before, or on how many processes share a step: those only decide who computes a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class MicroBatch:
    """Images that go through the model at once."""

    epoch: int
    number: int
    """Place in the epoch, over all processes: what seeds the dropout."""
    indices: list[int]
    """Images, as indices into the split."""
    first: int
    """Place of the first of them in the epoch's order."""
    step_images: int
    """Images of the whole step, over all its micro-batches and processes."""
    counts: bool = True
    """False where a process has no share in a round and repeats an image at weight zero."""

    @property
    def places(self) -> slice:
        """Places of the images in the epoch's order."""
        return slice(self.first, self.first + len(self.indices))

    @property
    def weight(self) -> float:
        """What the sum of the images' losses is multiplied by, so that a step's loss is a mean over its images."""
        return 1 / self.step_images if self.counts else 0.0


@dataclass(frozen=True)
class BatchSchedule:
    """The order of a split's images, as one process of several sees it."""

    images: int
    batch_size: int
    batches_per_step: int = 1
    """Micro-batches that make a step, over all processes."""
    seed: int | None = None
    """None: the split's own order, the same in every epoch."""
    process: int = 0
    processes: int = 1
    balance: tuple[int, ...] | None = None
    """Labels of the images, where an epoch is to hold as many of each class."""

    @property
    def effective_batch(self) -> int:
        """Images of a step."""
        return self.batch_size * self.batches_per_step

    @property
    def steps_per_epoch(self) -> int:
        """Steps an epoch; the last may be smaller."""
        return math.ceil(self.images / self.effective_batch)

    def order(self, epoch: int) -> list[int]:
        """All images of an epoch: each once, or as many of each class."""
        if self.seed is None:
            return list(range(self.images))
        rng = np.random.default_rng((self.seed, epoch))
        if self.balance is not None:
            return balanced(np.array(self.balance), rng)
        return rng.permutation(self.images).tolist()

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches of each step from the step ``first`` on.

        In every process a step has the same number of micro-batches, so that collective
        operations meet; where images run out, the step's first image is repeated and doesn't count.
        """
        order = self.order(epoch)
        for step in range(first, self.steps_per_epoch):
            yield self._share(epoch, step, order)

    def _share(self, epoch: int, step: int, order: list[int]) -> list[MicroBatch]:
        begin, end = step * self.effective_batch, min((step + 1) * self.effective_batch, len(order))
        batches = [
            MicroBatch(
                epoch=epoch,
                number=step * self.batches_per_step + position,
                indices=order[first : min(first + self.batch_size, end)],
                first=first,
                step_images=end - begin,
            )
            for position, first in enumerate(range(begin, end, self.batch_size))
        ]
        idle = replace(batches[0], indices=batches[0].indices[:1], counts=False)
        batches += [idle] * (-len(batches) % self.processes)
        return batches[self.process :: self.processes]


def balanced(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """As many images as there are, in random order, from each class the same number but for one.

    Within a class no image comes twice more often than another.
    """
    classes = rng.permutation(np.unique(labels))
    drawn = []
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        count = len(labels) // len(classes) + (place < len(labels) % len(classes))
        rounds = [rng.permutation(members) for _ in range(math.ceil(count / len(members)))]
        drawn.append(np.concatenate(rounds)[:count] if rounds else members[:0])
    return rng.permutation(np.concatenate(drawn)).tolist()


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, well mixed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
