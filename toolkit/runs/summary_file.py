"""``summary.json`` of a run: its schema, checked when it is written and when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from toolkit.files import write_json

SUMMARY = "summary.json"


class SplitMetrics(BaseModel):
    """Metrics of a split; None where there is nothing to compute one from."""

    model_config = ConfigDict(extra="allow")

    images: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float | None
    auroc: float | None
    average_precision: float | None
    expected_calibration_error: float | None
    loss: float | None
    nll: float | None
    majority_class_accuracy: float | None


class NumberMetrics(BaseModel):
    """Metrics of a split whose images have a number each."""

    model_config = ConfigDict(extra="allow")

    images: int
    loss: float
    mae: float
    rmse: float
    r2: float | None
    spearman: float | None


class Summary(BaseModel):
    """Content of ``summary.json``."""

    model_config = ConfigDict(extra="allow")

    train: SplitMetrics | NumberMetrics | None = None
    validation: SplitMetrics | NumberMetrics | None = None
    test: SplitMetrics | NumberMetrics | None = None
    """With ``intervals`` and ``per_class``; like the others, there where the run has labelled images."""
    temperature: float | list[float]
    """Of the probabilities, fitted on validation; a list of one for each class where an image has several labels."""
    boundary_cache_on_device: dict[str, int] = {}
    """Bytes of the cached splits that lay in a GPU's memory; the others were read from the disk."""
    peak_memory_bytes: int | None = None
    """Most that the process held of the host's memory."""
    peak_device_bytes: int | None = None
    """Most that its tensors held of a GPU's memory; left out on a CPU."""
    data_fingerprint: str | None = None
    data: dict[str, Any] = {}
    """What the data set says of itself: name, source, licence."""


def write_summary(run: Path, content: dict[str, Any]) -> None:
    """Write the file into a run folder, if it is as the schema says."""
    Summary.model_validate(content)
    write_json(run / SUMMARY, content)
