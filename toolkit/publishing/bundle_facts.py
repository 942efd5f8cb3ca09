"""What a tracker is told of a bundle: parameters, metrics and tags, all of its own files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.recipe.flat_keys import flat_keys
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.latency_file import SHIPPED
from toolkit.strict_json import read_json

NO_KEY = re.compile(r"[^\w\-. :/]", re.ASCII)
"""What MLflow takes in no name of a parameter or a metric."""
MEASURED = ("p50_ms", "p99_ms", "throughput_ips")
PROVEN = ("max_abs_logit", "top1_agreement")
LONGEST_NOTE = 5000
"""Characters of a run's description, at most."""


@dataclass(frozen=True)
class BundleFacts:
    """Of one bundle."""

    params: dict[str, str]
    """The recipe's keys."""
    metrics: dict[str, float]
    """``SPLIT/NAME`` as training logs them, ``parity/...`` and ``latency/...``."""
    tags: dict[str, str]


def facts_of(bundle: Bundle) -> BundleFacts:
    """Read a whole bundle."""
    origin = bundle.manifest.provenance
    with bundle.parsing("manifest.json"):
        recipe = flat_keys(origin.get("recipe") or {})
        metrics = {**dict(_quality(origin.get("figures") or {})), **dict(_parity(bundle)), **dict(_latency(bundle))}
        params = {_key(key): str(value) for key, value in recipe.items() if not key.startswith("model.head.texts.")}
    return BundleFacts(
        params | {"classes": str(len(bundle.labels))},
        {_key(name): float(value) for name, value in metrics.items()},
        _tags(bundle),
    )


def _quality(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for split, values in figures.items():
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield f"{split}/{name}", value
        for name, (low, high) in (values.get("intervals") or {}).items():
            yield f"{split}/{name}_low", low
            yield f"{split}/{name}_high", high


def _parity(bundle: Bundle) -> Iterator[tuple[str, float]]:
    for precision, by_provider in bundle.parity_results.items():
        for provider, entry in by_provider.items():
            yield from ((f"parity/{precision}/{provider}/{name}", entry[name]) for name in PROVEN if name in entry)


def _latency(bundle: Bundle) -> Iterator[tuple[str, float]]:
    """Of the shipped graphs, none of those that they were compared with."""
    if "latency.json" not in bundle.manifest.files:
        return
    for row in read_json(bundle.read("latency.json"))["rows"]:
        if row["engine"] in SHIPPED:
            where = f"latency/{row['precision']}/{row['provider']}/batch_{row['batch_size']}"
            yield from ((f"{where}/{name}", row[name]) for name in MEASURED)


def _tags(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    origin = manifest.provenance
    card = bundle.read("MODEL_CARD.md").decode() if "MODEL_CARD.md" in manifest.files else ""
    tags = {
        "clip_toolkit.version": manifest.toolkit_version,
        "clip_toolkit.created": manifest.created,
        "clip_toolkit.task": manifest.task,
        "clip_toolkit.precisions": ", ".join(bundle.precisions),
        "clip_toolkit.manifest_sha256": manifest.manifest_sha256 or "",
        "clip_toolkit.checkpoint_sha256": str(origin.get("checkpoint_sha256") or ""),
        "clip_toolkit.data_fingerprint": str(origin.get("data_fingerprint") or ""),
        "mlflow.note.content": _without_metadata(card)[:LONGEST_NOTE],
    }
    return {name: value for name, value in tags.items() if value}


def _without_metadata(card: str) -> str:
    """A card's Markdown, without the YAML that the hub reads."""
    return card.split("\n---\n", 1)[-1].strip() if card.startswith("---\n") else card.strip()


def _key(name: str) -> str:
    return NO_KEY.sub("_", name)
