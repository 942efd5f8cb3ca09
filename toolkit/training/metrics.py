"""Figures of a split, from all its logits and labels at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

BINS = 15
"""Of the confidence, for the expected calibration error (Guo et al., 2017, use 15)."""


def split_metrics(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """Figures of a split.

    Args:
        logits: [images, classes], fp32.
        labels: [images].
        temperature: what the logits are divided by for probabilities; it changes ``loss``,
            ``nll`` and ``expected_calibration_error`` only.

    Returns:
        ``loss`` (the same as ``nll``: mean negative log-likelihood in nats), ``accuracy``,
        ``balanced_accuracy`` (mean recall a class), ``macro_f1``, ``auroc`` and
        ``average_precision`` (one class against the rest, mean over classes),
        ``expected_calibration_error`` (15 bins), ``majority_class_accuracy`` (of always naming
        the most frequent class) and ``images``.
    """
    classes = logits.shape[1]
    scaled = logits.double() / temperature
    probabilities = torch.softmax(scaled, dim=-1)
    nll = torch.nn.functional.cross_entropy(scaled, labels)
    figures = {
        "loss": nll,
        "nll": nll,
        "accuracy": multiclass_accuracy(logits, labels, classes, average="micro"),
        "balanced_accuracy": multiclass_accuracy(logits, labels, classes, average="macro"),
        "macro_f1": multiclass_f1_score(logits, labels, classes, average="macro"),
        "auroc": multiclass_auroc(probabilities, labels, classes, average="macro"),
        "average_precision": multiclass_average_precision(probabilities, labels, classes, average="macro"),
        "expected_calibration_error": multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS),
        "majority_class_accuracy": labels.bincount().max() / len(labels),
    }
    return {name: float(value) for name, value in figures.items()} | {"images": len(labels)}


def class_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of images of each class by name."""
    counts = labels.bincount(minlength=len(classes)).tolist()
    columns = {
        "precision": multiclass_precision(logits, labels, len(classes), average="none"),
        "recall": multiclass_recall(logits, labels, len(classes), average="none"),
        "f1": multiclass_f1_score(logits, labels, len(classes), average="none"),
    }
    return {
        name: {title: float(column[index]) for title, column in columns.items()} | {"images": counts[index]}
        for index, name in enumerate(classes)
    }


def score_by(chosen: str, figures: Mapping[str, Any]) -> tuple[float, float]:
    """What makes a classifier the better one on validation: the chosen figure, and of equals the smaller loss."""
    loss = -float(figures["loss"])
    return (loss, loss) if chosen == "loss" else (float(figures[chosen]), loss)
