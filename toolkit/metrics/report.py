"""What is reported of a split: its metrics with their intervals, and a class at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.metrics.split import SplitScores

CALIBRATED = ("loss", "nll", "expected_calibration_error")
"""Metrics that the temperature changes."""


def metrics_of(scores: SplitScores, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics by name, with ``intervals`` and ``per_class``."""
    return {**scores.metrics(), "intervals": scores.intervals(), "per_class": scores.class_metrics(classes)}


def uncalibrated_of(as_trained: SplitScores) -> dict[str, Any]:
    """The metrics that the temperature changes, without it, with ``intervals``."""
    return {**as_trained.metrics(CALIBRATED), "intervals": as_trained.intervals(CALIBRATED)}
