"""Score everything that a place holds into Parquet shards, each image exactly once, whatever ends the process."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from toolkit import __version__
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import MANIFEST, Bundle
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.examples import ImageText
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.prediction_file import Table
from toolkit.scoring.inputs import AS_TRAINED, Columns, Item, items_of
from toolkit.scoring.job import JOB, SUMMARY, Job, known_job, stamp_of
from toolkit.scoring.listing import items_in, opened_listing, write_listing
from toolkit.scoring.remote import absolute, with_patience
from toolkit.scoring.shard_file import Done, done_shards, write_shard
from toolkit.scoring.store import Store
from toolkit.serving.classifier import Classifier
from toolkit.serving.predictor import Predicted, default_top_k, entry_of

SHARD_ROWS = 5_000
"""What a kill costs at most."""


@dataclass(frozen=True)
class ScoringOptions:
    """How a job is scored; None stands for what ``serving.json`` says, or the defaults of ``predict``."""

    provider: str | None = None
    precision: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    top_k: int | None = None
    """Classes whose probabilities a row has: all, of more than 100 classes 10, if None."""
    embedding: bool = False
    shard_rows: int = SHARD_ROWS
    columns: Columns = AS_TRAINED

    def check(self) -> None:
        """Raise :class:`ToolkitError` for numbers that can't be."""
        if self.shard_rows < 1:
            raise ToolkitError(f"a shard of {self.shard_rows} rows", where="--shard-rows", fix="give 1 or more")


DEFAULT = ScoringOptions()


def score(
    bundle: Bundle,
    place: str,
    out: str,
    options: ScoringOptions = DEFAULT,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Predict everything, or go on where an earlier call ended.

    Args:
        bundle: opened; every file is compared with the manifest first.
        place: a folder, a glob, a manifest or shards; a path or a URL.
        out: folder of the shards; a path or a URL.
        options: how.
        progress: told how many images are done.

    Returns:
        The content of ``summary.json``: ``images``, ``predicted``, ``errors`` by reason, ``classes``, ``retried``,
        ``shards``, ``resumed`` (images that earlier calls had done), ``seconds`` and ``images_per_second`` (of this
        call), and what ``job.json`` says of the bundle.

    Raises:
        TakenError: another job writes there.
        ToolkitError: nothing to score; a folder that another bundle, input or setting began; the bundle changed
            meanwhile; the output can't be written.
    """
    options.check()
    store, place = Store(out), absolute(place)
    with (
        store.held(),
        Classifier.open(
            bundle,
            provider=options.provider,
            precision=options.precision,
            threads=options.threads,
            batch_size=options.batch_size,
        ) as classifier,
    ):
        session = classifier.pool.sessions[0]
        if options.embedding and "embedding" not in session.outputs:
            fix = "export the run again with --embedding"
            raise ToolkitError("the bundle's graph gives no embedding", where=bundle.path, fix=fix)
        job = _begun(store, bundle, place, options, session.provider, classifier.pool.precision, progress)
        started = time.monotonic()
        done = done_shards(store)
        resumed = sum(each.rows for each in done.values())
        _score_rest(store, classifier, job, done, progress)
        seconds = time.monotonic() - started
        summary = _summary(job, done, resumed, seconds)
        store.write_json(SUMMARY, summary)
    return summary


def _begun(
    store: Store,
    bundle: Bundle,
    place: str,
    options: ScoringOptions,
    provider: str,
    precision: str,
    progress: Progress,
) -> Job:
    """The job of a folder: the one that is there, if it is the same, or a new one with its list."""
    known = known_job(store)
    if known is None:
        others = sorted(set(store.names()) - {".lock", "lock.json", "inputs.parquet"})
        if others:
            what = f"the folder holds other things, such as {others[0]}"
            raise ToolkitError(what, where=store.url, fix="choose a new folder")
        progress.stage("listing")
        images = write_listing(store, items_of(place, bundle, options.columns), options.shard_rows)
    job = Job(
        input=place,
        images=images if known is None else known.images,
        shard_rows=options.shard_rows,
        top_k=options.top_k or default_top_k(len(bundle.labels)),
        embedding=options.embedding,
        precision=precision,
        provider=provider,
        toolkit_version=__version__,
        **stamp_of(bundle, precision),
    )
    if known is None:
        store.write_json(JOB, job.model_dump())
        return job
    job.require_same(known, store.where(JOB))
    return known


def _score_rest(store: Store, classifier: Classifier, job: Job, done: dict[int, Done], progress: Progress) -> None:
    """Score the shards that are not done; they come into ``done`` as they are written."""
    bundle, retries = classifier.bundle, _Retries()
    table = Table(
        bundle.labels,
        job.top_k,
        bundle.decision.several_labels,
        "value" in bundle.decision.outputs,
        bundle.tokenizer is not None,
    )
    stamp = {key: str(value) for key, value in job.model_dump(exclude={"images", "shard_rows"}).items()}
    manifest = _manifest_hash(bundle)
    left = [shard for shard in range(job.shards) if shard not in done]
    count = sum(each.rows for each in done.values())
    progress.stage("predicting")
    with opened_listing(store) as listing:
        kept: deque[Item] = deque()

        def sources() -> Iterator[Callable[[], ImageText]]:
            for shard in left:
                for item in items_in(listing, shard):
                    kept.append(item)
                    yield partial(_read, item, classifier, retries)

        predictions = classifier.stream(sources(), readers=usable_cores() + 1)
        for shard in left:
            entries, embeddings = [], list[Any]()
            for _ in range(job.rows_of(shard)):
                predicted = next(predictions)
                entries.append(_entry(kept.popleft(), predicted, job.top_k))
                embeddings.append(getattr(predicted, "embedding", None))
                count += 1
                progress.done(count, job.images)
            if _manifest_hash(bundle) != manifest:
                what = "the bundle was exchanged while it scored; shards that are written are of the one before"
                raise ToolkitError(what, where=bundle.path, fix="score into another folder with the new one")
            store.renew()
            given = embeddings if job.embedding else None
            done[shard] = write_shard(store, shard, table, entries, given, stamp, retries.taken())


def _entry(item: Item, predicted: Predicted, top_k: int | None) -> dict[str, Any]:
    return entry_of(None, predicted, top_k, item.text) | {"path": item.path or None}


def _read(item: Item, classifier: Classifier, retries: _Retries) -> ImageText:
    """An item's image and text; runs in a reader's thread."""
    if item.error:
        raise UnreadableImageError(item.error, where=item.path)
    if not classifier.reader.takes_image or not item.path:
        return ImageText(None, item.text)
    try:
        return ImageText(with_patience(item.read, retries.add), item.text)
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error), where=item.path) from error


class _Retries:
    """Counts further attempts to read, from many threads."""

    def __init__(self) -> None:
        self._count, self._lock = 0, Lock()

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def taken(self) -> int:
        """How many since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count


def _manifest_hash(bundle: Bundle) -> str:
    try:
        return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return "gone"


def _summary(job: Job, done: Mapping[int, Done], resumed: int, seconds: float) -> dict[str, Any]:
    errors, classes = Counter[str](), Counter[str]()
    for each in done.values():
        errors.update(each.errors)
        classes.update(each.classes)
    images = sum(each.rows for each in done.values())
    return {
        "images": images,
        "predicted": images - errors.total(),
        "errors": dict(errors.most_common()),
        "classes": dict(sorted(classes.items())),
        "retried": sum(each.retried for each in done.values()),
        "shards": len(done),
        "resumed": resumed,
        "seconds": seconds,
        "images_per_second": (images - resumed) / seconds if images > resumed else None,
        **job.model_dump(include={"bundle", "bundle_sha256", "precision", "provider", "input"}),
    }
