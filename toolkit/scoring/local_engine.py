"""Shards by the sessions of this process, which read ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import ImageText
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.memory import MIB, available_mib
from toolkit.runtime.providers import ON_CPU
from toolkit.scoring.engine import Engine, Facts
from toolkit.scoring.inputs import Item
from toolkit.scoring.job import Job
from toolkit.scoring.listing import items_in, opened_listing
from toolkit.scoring.options import UNTUNED_BATCH, ScoringOptions
from toolkit.scoring.read_item import Retries, read_item
from toolkit.scoring.shard_file import Done
from toolkit.scoring.shard_writer import ShardWriter
from toolkit.scoring.store import Store
from toolkit.serving.classifier import Classifier

COPIES = 3
"""Of the weights that a session holds: as they are, packed for its kernels, and what the graph computes with them."""


@contextmanager
def local_engine(bundle: Bundle, options: ScoringOptions) -> Iterator[Engine]:
    """Open a bundle's sessions; see :func:`toolkit.serving.pool.open_pool` for the errors."""
    layout = _layout(bundle, options)
    with Classifier.open(bundle, provider=options.provider, precision=options.precision, **layout) as classifier:
        yield LocalEngine(classifier)


def _layout(bundle: Bundle, options: ScoringOptions) -> dict[str, int | None]:
    """Sessions, threads and batch size: as asked for or tuned; else, on a CPU, a session a core.

    Sessions of one thread don't wait for each other, nor spin while images are decoded. Each holds the weights, so
    there are fewer, of more threads, where half of the memory that is free doesn't hold so many.
    """
    if bundle.tuned_for(options.provider, options.precision):
        return {"threads": options.threads, "batch_size": options.batch_size}
    batch_size = options.batch_size or UNTUNED_BATCH
    if options.threads is not None or (options.provider or "cpu") not in ON_CPU:
        return {"threads": options.threads, "batch_size": batch_size}
    name = bundle.graph_name(options.precision)
    held = COPIES * sum(entry.size for file, entry in bundle.manifest.files.items() if file.startswith(name))
    sessions = max(1, min(usable_cores(), int(available_mib() * MIB / 2 // max(1, held))))
    return {"sessions": sessions, "threads": usable_cores() // sessions, "batch_size": batch_size}


class LocalEngine:
    """See :class:`toolkit.scoring.engine.Engine`; images of the next shard are read while one ends."""

    def __init__(self, classifier: Classifier) -> None:
        self.facts = Facts.of(classifier)
        self._classifier = classifier

    def shards(
        self, store: Store, job: Job, left: Sequence[int], told: Callable[[int], object]
    ) -> Iterator[tuple[int, Done]]:
        """See :meth:`toolkit.scoring.engine.Engine.shards`; in their order."""
        classifier, retries = self._classifier, Retries()
        writer = ShardWriter(store, classifier.bundle, job)
        with opened_listing(store) as listing:
            kept: deque[list[Item]] = deque()

            def sources() -> Iterator[Callable[[], ImageText]]:
                for shard in left:
                    kept.append(items_in(listing, shard))
                    for item in kept[-1]:
                        yield partial(read_item, item, retries, takes_image=classifier.reader.takes_image)

            predictions = classifier.stream(sources(), readers=usable_cores() + 1, stretch=job.shard_rows)
            for shard in left:
                predicted = []
                for said in islice(predictions, job.rows_of(shard)):
                    predicted.append(said)
                    told(1)
                store.renew()
                yield shard, writer.write(shard, kept.popleft(), predicted, retries.taken())
