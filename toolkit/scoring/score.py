"""Score everything that a place holds into Parquet shards, each image exactly once, whatever ends the process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from toolkit import __version__
from toolkit.data.remote import absolute
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.ray_cluster import require_ray
from toolkit.scoring.engine import Engine, Facts
from toolkit.scoring.inputs import items_of
from toolkit.scoring.job import JOB, SUMMARY, Job, known_job, stamp_of
from toolkit.scoring.listing import write_listing
from toolkit.scoring.local_engine import local_engine
from toolkit.scoring.options import DEFAULT, ScoringOptions
from toolkit.scoring.shard_file import Done, done_shards
from toolkit.scoring.store import Store
from toolkit.serving.predictor import default_top_k


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
    with store.held(), _engine(bundle, options, progress) as engine:
        if options.embedding and "embedding" not in engine.facts.outputs:
            fix = "export the run again with --embedding"
            raise ToolkitError("the bundle's graph gives no embedding", where=bundle.path, fix=fix)
        job = _begun(store, bundle, place, options, engine.facts, progress)
        started = time.monotonic()
        done = done_shards(store)
        count = resumed = sum(each.rows for each in done.values())

        def told(rows: int) -> None:
            nonlocal count
            count += rows
            progress.done(count, job.images)

        progress.stage("predicting")
        left = [shard for shard in range(job.shards) if shard not in done]
        done.update(engine.shards(store, job, left, told) if left else ())
        summary = _summary(job, done, resumed, time.monotonic() - started)
        store.write_json(SUMMARY, summary)
    return summary


def _engine(bundle: Bundle, options: ScoringOptions, progress: Progress) -> AbstractContextManager[Engine]:
    """The engine that was asked for.

    Raises:
        ToolkitError: Ray is not installed.
    """
    if options.engine == "local":
        return local_engine(bundle, options)
    progress.stage("starting Ray")
    require_ray("--engine ray", "ray.data")
    from toolkit.scoring.ray_engine import ray_engine

    return ray_engine(bundle, options)


def _begun(
    store: Store,
    bundle: Bundle,
    place: str,
    options: ScoringOptions,
    facts: Facts,
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
        precision=facts.precision,
        provider=facts.provider,
        toolkit_version=__version__,
        **stamp_of(bundle, facts.precision),
    )
    if known is None:
        store.write_json(JOB, job.model_dump())
        return job
    job.require_same(known, store.where(JOB))
    return known


def _summary(job: Job, done: Mapping[int, Done], resumed: int, seconds: float) -> dict[str, Any]:
    errors, classes = Counter[str](), Counter[str]()
    for _, each in sorted(done.items()):
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
