"""The end of a run: what the saved classifier gives on every split, calibrated."""

from __future__ import annotations

import csv
import io
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from toolkit.data.dataset import Loader
from toolkit.data.source import DataSource
from toolkit.models.classifier import Classifier
from toolkit.training.bootstrap import intervals
from toolkit.training.boundary import Boundary
from toolkit.training.evaluation import predict_split
from toolkit.training.feed import PixelFeed
from toolkit.training.metrics import BINS, class_metrics, split_metrics
from toolkit.training.plan import Plan
from toolkit.training.stopwatch import Stopwatch

CALIBRATED = ("loss", "nll", "expected_calibration_error")
"""Figures that the temperature changes."""


def predict_splits(
    classifier: Classifier,
    boundary: Boundary,
    loaders: Mapping[str, Loader],
    plan: Callable[[str], Plan],
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Logits [images, classes] of every split, from the image files through all that production will run.

    That is the whole classifier, or the run's own trunk and the classifier's groups behind it.
    """
    watch = Stopwatch(accelerator.device)
    start = 0 if boundary.trunk is None else boundary.start
    logits = {}
    for split, loader in loaders.items():
        feed = PixelFeed(loader, boundary.trunk, accelerator.device)
        logits[split] = predict_split(classifier, start, feed, plan(split), len(classifier.labels), accelerator, watch)
        loader.close()
    return logits


def figures_of(data: DataSource, logits: Mapping[str, Tensor], temperature: float) -> dict[str, Any]:
    """What ``summary.json`` says of the splits and of the data set."""
    figures = {split: split_metrics(logits[split], data.labels(split), temperature) for split in data.splits}
    labels, groups = data.labels("test"), data.groups("test")
    test: dict[str, Any] = {
        "intervals": intervals(logits["test"], labels, temperature, groups=groups),
        "per_class": class_metrics(logits["test"], labels, data.classes),
    }
    uncalibrated = {
        split: {name: split_metrics(logits[split], data.labels(split))[name] for name in CALIBRATED}
        for split in ("validation", "test")
    }
    before = intervals(logits["test"], labels, groups=groups)
    return figures | {
        "test": figures["test"] | test,
        "uncalibrated": uncalibrated
        | {"test": uncalibrated["test"] | {"intervals": {name: before[name] for name in CALIBRATED}}},
        "temperature": temperature,
        "calibration_bins": BINS,
        "classes": data.classes,
        "images": {split: len(examples) for split, examples in data.splits.items()},
        "skipped_images": data.skipped,
        "data_fingerprint": data.fingerprint,
        "data": {key: data.about[key] for key in ("name", "source", "licence") if key in data.about},
        "confusion_matrix": _confusion(logits["test"], data.labels("test")),
    }


def predictions_csv(data: DataSource, logits: Tensor) -> bytes:
    """The test split in its order as a table: path, label, prediction, and the logits as the network gave them."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", "predicted", *(f"logit:{name}" for name in data.classes)])
    for example, row in zip(data.splits["test"], logits, strict=True):
        path = example.path.relative_to(data.root) if example.path.is_relative_to(data.root) else example.path
        table.writerow([path, data.classes[example.label], data.classes[int(row.argmax())], *row.tolist()])
    return text.getvalue().encode()


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _confusion(logits: Tensor, labels: Tensor) -> list[list[int]]:
    """Counts [true class][predicted class]."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(-1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
