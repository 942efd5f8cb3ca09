"""Figures of a split, from all its logits and labels at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_f1_score,
)


def split_metrics(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """Loss, accuracy, balanced accuracy, macro F1, AUROC and calibration error of a split.

    Args:
        logits: [images, classes], fp32.
        labels: [images].
        temperature: what the logits are divided by for probabilities; it changes ``loss``
            and ``expected_calibration_error`` only.

    AUROC is one-vs-rest, averaged over classes; the calibration error has 15 bins.
    """
    classes = logits.shape[1]
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    figures = {
        "loss": torch.nn.functional.cross_entropy(logits.double() / temperature, labels),
        "accuracy": multiclass_accuracy(logits, labels, classes, average="micro"),
        "balanced_accuracy": multiclass_accuracy(logits, labels, classes, average="macro"),
        "macro_f1": multiclass_f1_score(logits, labels, classes, average="macro"),
        "auroc": multiclass_auroc(probabilities, labels, classes, average="macro"),
        "expected_calibration_error": multiclass_calibration_error(probabilities, labels, classes, n_bins=15),
        "majority_class_accuracy": labels.bincount().max() / len(labels),
    }
    return {name: float(value) for name, value in figures.items()} | {"images": len(labels)}
