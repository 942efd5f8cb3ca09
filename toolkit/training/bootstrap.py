"""Intervals of a split's figures, by resampling its images or its groups."""

# R resamples, N images, C classes

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toolkit.training.metrics import BINS

Array = npt.NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 4_000_000
"""Weights that are held at once: images times resamples."""
RANKED = 2_000_000
"""Images times classes up to which AUROC and average precision are resampled too; each costs a pass a class."""


def intervals(
    logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The 95 % interval [low, high] of each figure of :func:`toolkit.training.metrics.split_metrics`.

    The percentile bootstrap: images are drawn with replacement as many times as there are, and
    the 2.5th and 97.5th percentile of a figure over the resamples are its interval. Where groups
    are given, whole groups are drawn, since images of one patient are not independent.

    Args:
        logits: [N, C].
        labels: [N].
        temperature: what the logits are divided by for probabilities.
        groups: of each image, or None.
        resamples: R.
        seed: of the draws.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; groups:
    Field and Welsh, "Bootstrapping clustered data" (2007).
    """
    scores = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    truth, predicted = labels.numpy(), logits.argmax(-1).numpy()
    rng = np.random.default_rng(seed)
    clusters = np.arange(len(truth)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    size = max(1, CHUNK // len(truth))
    figures = [
        _figures(_weights(clusters, min(size, resamples - start), rng), scores, truth, predicted)
        for start in range(0, resamples, size)
    ]
    tail = (1 - LEVEL) / 2
    return {
        name: np.nanquantile(np.concatenate([part[name] for part in figures]), [tail, 1 - tail]).tolist()
        for name in figures[0]
    }


def _weights(clusters: npt.NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Array:
    """How often each image was drawn [R, N]."""
    count = int(clusters.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, clusters].astype(np.float64)


def _figures(
    weights: Array, scores: Array, truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> dict[str, Array]:
    """Each figure [R] of images that count with weights [R, N]."""
    classes, total = scores.shape[1], weights.sum(1)
    nll = -np.log(np.maximum(scores[np.arange(len(truth)), truth], np.finfo(np.float64).tiny))
    hits = (truth == predicted).astype(np.float64)
    images, claims, right = (
        weights @ np.eye(classes)[which] if which is not None else (weights * hits) @ np.eye(classes)[truth]
        for which in (truth, predicted, None)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(images > 0, right / images, np.nan)
        f1 = np.where(images + claims > 0, 2 * right / (images + claims), np.nan)  # as torchmetrics: no such class
    figures = {
        "loss": weights @ nll / total,
        "accuracy": weights @ hits / total,
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "expected_calibration_error": _calibration_error(weights, scores.max(1), hits) / total,
    }
    if len(truth) * classes <= RANKED:
        ranked = [_ranked(weights, scores[:, index], truth == index) for index in range(classes)]
        with warnings.catch_warnings(category=RuntimeWarning, action="ignore"):  # a resample may hold a single class
            figures["auroc"] = np.nanmean([area for area, _ in ranked], axis=0)
            figures["average_precision"] = np.nanmean([precision for _, precision in ranked], axis=0)
    return figures | {"nll": figures["loss"]}


def _calibration_error(weights: Array, confidence: Array, hits: Array) -> Array:
    """Sum over the bins of |confidence - accuracy| times their weight [R]."""
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(np.int64), BINS - 1)]
    return np.asarray(np.abs((weights * (confidence - hits)) @ bins).sum(axis=1))


def _ranked(weights: Array, scores: Array, positive: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Area under the ROC curve and average precision [R] of one class against the rest; equal scores count as one."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hit = np.cumsum(weights[:, order] * positive[order], axis=1)[:, ends]
    false = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, ends]
    zero = np.zeros((len(weights), 1))
    true_steps, false_steps = np.diff(hit, axis=1, prepend=zero), np.diff(false, axis=1, prepend=zero)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (false_steps * (hit - true_steps / 2)).sum(1) / (hit[:, -1] * false[:, -1])
        precision = np.where(hit + false > 0, hit / (hit + false), 0.0)
        average = (true_steps * precision).sum(1) / hit[:, -1]
    return area, average
