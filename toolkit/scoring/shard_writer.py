"""Writes a job's shards as its bundle says them, as long as the bundle stays what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import MANIFEST, Bundle
from toolkit.runtime.prediction_file import Table
from toolkit.scoring.inputs import Item
from toolkit.scoring.job import Job
from toolkit.scoring.shard_file import Done, write_shard
from toolkit.scoring.store import Store
from toolkit.serving.predictor import Predicted, entry_of


class ShardWriter:
    """Writes what a bundle predicted for the items of a shard.

    Args:
        store: where to.
        bundle: that predicts.
        job: whose shards they are.
    """

    def __init__(self, store: Store, bundle: Bundle, job: Job) -> None:
        self._store, self._bundle, self._job = store, bundle, job
        self._table = Table(
            bundle.labels,
            job.top_k,
            bundle.decision.several_labels,
            "value" in bundle.decision.outputs,
            bundle.tokenizer is not None,
        )
        self._stamp = {key: str(value) for key, value in job.model_dump(exclude={"images", "shard_rows"}).items()}
        self._manifest = _manifest_hash(bundle)

    def write(self, shard: int, items: Sequence[Item], predicted: Sequence[Predicted], retried: int) -> Done:
        """Write a shard and its marker.

        Args:
            shard: its number.
            items: of its rows, in order.
            predicted: a prediction an item.
            retried: further attempts to read from a store.

        Raises:
            ToolkitError: the bundle was exchanged, or the shard can't be written.
        """
        if _manifest_hash(self._bundle) != self._manifest:
            what = "the bundle was exchanged while it scored; shards that are written are of the one before"
            raise ToolkitError(what, where=self._bundle.path, fix="score into another folder with the new one")
        entries = [
            entry_of(None, said, self._job.top_k, item.text) | {"path": item.path or None}
            for item, said in zip(items, predicted, strict=True)
        ]
        embeddings = [getattr(said, "embedding", None) for said in predicted] if self._job.embedding else None
        return write_shard(self._store, shard, self._table, entries, embeddings, self._stamp, retried)


def _manifest_hash(bundle: Bundle) -> str:
    try:
        return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return "gone"
