"""What is reported of a split: its metrics with their intervals, a class at a time, and which classes are mixed up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.metrics.split import SplitScores

CALIBRATED = ("loss", "nll", "expected_calibration_error")
"""Metrics that the temperature changes."""
DENSE_CLASSES = 100
"""More classes than this have no matrix of confusions, only the most frequent ones."""
CONFUSIONS = 50
"""Confusions that are listed."""


def metrics_of(scores: SplitScores, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics by name, with ``intervals`` and ``per_class``."""
    return {**scores.metrics(), "intervals": scores.intervals(), "per_class": scores.class_metrics(classes)}


def uncalibrated_of(as_trained: SplitScores) -> dict[str, Any]:
    """The metrics that the temperature changes, without it, with ``intervals``."""
    return {**as_trained.metrics(CALIBRATED), "intervals": as_trained.intervals(CALIBRATED)}


def confusions_of(scores: SplitScores, classes: Sequence[str]) -> dict[str, Any]:
    """``confusion_matrix`` [true][predicted], None of many classes, and ``confusions``, the most frequent ones."""
    pairs, counts = np.unique(np.stack([scores.labels, scores.predicted]), axis=1, return_counts=True)
    wrong = [
        {"label": classes[label], "predicted": classes[predicted], "images": int(count)}
        for label, predicted, count in zip(*pairs, counts, strict=True)
        if label != predicted
    ]
    wrong.sort(key=lambda each: -each["images"])
    matrix = None
    if len(classes) <= DENSE_CLASSES:
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[tuple(pairs)] = counts
    return {"confusion_matrix": None if matrix is None else matrix.tolist(), "confusions": wrong[:CONFUSIONS]}
