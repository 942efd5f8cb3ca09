"""Where the figures of an evaluation come from: its images and its graph."""

from __future__ import annotations

from typing import Any

from toolkit.data.evaluation_data import EvaluationData
from toolkit.runtime.bundle import Bundle
from toolkit.text import path_text

LISTED_SKIPPED = 100
"""Unreadable images that are named."""


def origin_of(bundle: Bundle, data: EvaluationData, precision: str, provider: str) -> dict[str, Any]:
    """The keys of a record that name split, data, bundle, graph, precision and provider."""
    tokenizer = bundle.tokenizer
    return {
        "split": data.split,
        "data": path_text(data.config.path),
        "data_fingerprint": data.fingerprint,
        "skipped": len(data.skipped),
        "skipped_images": data.skipped[:LISTED_SKIPPED],
        "truncated_texts": None if tokenizer is None else tokenizer.truncated(image.text for image in data.images),
        "bundle": path_text(bundle.path),
        "graph_sha256": bundle.manifest.files[bundle.graph_name(precision)].sha256,
        "precision": precision,
        "provider": provider,
    }
