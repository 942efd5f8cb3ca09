"""The metrics of a split from its logits and labels, and their intervals: each computed once, and only if asked for."""

# N images, C classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from toolkit.metrics.calibration import CalibrationError, calibration_error
from toolkit.metrics.class_ranking import Ranking, rank_classes
from toolkit.metrics.confusions import confusions_of
from toolkit.metrics.intervals import Array, bounded_interval, mean_interval
from toolkit.sampling import evenly_spaced

Integers = npt.NDArray[np.int64]
METRICS = (
    *("loss", "nll", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision"),
    *("expected_calibration_error", "majority_class_accuracy", "images"),
)
WITH_INTERVAL = METRICS[:-2]
SMALLER_IS_BETTER = ("loss", "mae", "rmse")
RANKED = 20_000_000
"""Images times classes that AUROC and average precision are computed on at most: of a larger split, even places."""
DIGITS = 12
"""Of log-probabilities that rank images: equal ones that rounding made differ are equal again."""
CHUNK = 4_000_000
"""Images times classes that are held in double precision at once."""


class SplitScores:
    """What a classifier says of a split, held against its labels.

    Args:
        logits: [N, C], fp32; an array, or what numpy reads as one without a copy, such as a tensor on the CPU.
        labels: [N].
        temperature: what the logits are divided by for probabilities; it changes ``loss``, ``nll`` and
            ``expected_calibration_error``, and of more than two classes a little of ``auroc`` and
            ``average_precision``.
        groups: of each image, or None where all are independent; they change intervals alone.
    """

    def __init__(
        self,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        temperature: float = 1.0,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.logits: npt.NDArray[Any] = np.asarray(logits)
        self.labels: Integers = np.asarray(labels)
        self.temperature, self.groups = temperature, groups
        self.classes = self.logits.shape[1]

    names: ClassVar[tuple[str, ...]] = METRICS
    """All metrics that there are."""
    names_with_interval: ClassVar[tuple[str, ...]] = WITH_INTERVAL

    def at(self, cuts: npt.ArrayLike | None) -> SplitScores:
        """The same scores, decided at cuts of the logits; there are none where the largest logit decides."""
        return self

    def metrics(self, names: Iterable[str] | None = None) -> dict[str, float]:
        """Metrics of the split by name.

        ``loss`` (the same as ``nll``: mean negative log-likelihood in nats), ``accuracy``, ``balanced_accuracy``
        (mean recall over the classes), ``macro_f1``, ``auroc`` and ``average_precision`` (one class against the
        rest, mean over the classes), ``expected_calibration_error`` (debiased, see
        :func:`toolkit.metrics.calibration.calibration_error`), ``majority_class_accuracy`` (of always naming the
        most frequent class) and ``images``.
        """
        return {name: self._value(name) for name in names or self.names}

    def intervals(self, names: Iterable[str] | None = None) -> dict[str, list[float]]:
        """The 95 % interval [low, high] of each metric; see :mod:`toolkit.metrics.intervals`."""
        return {name: [float(end) for end in self._interval(name)] for name in names or self.names_with_interval}

    @cached_property
    def predicted(self) -> Integers:
        """The class with the largest logit [N]."""
        predicted: Integers = self.logits.argmax(-1)
        return predicted

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether it is the label [N]."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    @cached_property
    def _normalisers(self) -> Array:
        """Log of the sum of exponentials of the scaled logits [N]."""
        return np.concatenate([logsumexp(part.astype(np.float64) / self.temperature, -1) for part in self._parts()])

    def _parts(self) -> Iterator[npt.NDArray[Any]]:
        """The logits, so many images at a time as are held in double precision at once."""
        rows = max(1, CHUNK // self.classes)
        for start in range(0, len(self.logits), rows):
            yield self.logits[start : start + rows]

    def _logits_of(self, classes: Integers) -> Array:
        """The logit of one class of each image [N]."""
        chosen: Array = np.take_along_axis(self.logits, classes[:, None], 1)[:, 0].astype(np.float64)
        return chosen

    def _top(self, count: int) -> tuple[Integers, Array]:
        """The classes with the largest logits, the largest first, and these logits, both [N, count]."""
        places = []
        for part in self._parts():
            top = np.argpartition(-part, count - 1, -1)[:, :count]
            order = np.argsort(-np.take_along_axis(part, top, 1), -1, kind="stable")
            places.append(np.take_along_axis(top, order, 1))
        found = np.concatenate(places)
        return found, np.take_along_axis(self.logits, found, 1).astype(np.float64)

    def log_probabilities(self, classes: Integers) -> Array:
        """Log-probability of one class of each image [N]."""
        return np.minimum(0.0, self._logits_of(classes) / self.temperature - self._normalisers)

    def likeliest(self, count: int) -> tuple[Integers, Array]:
        """The likeliest classes of each image and their probabilities, both [N, count]."""
        classes, logits = self._top(count)
        return classes, np.exp(np.minimum(0.0, logits / self.temperature - self._normalisers[:, None]))

    @cached_property
    def losses(self) -> Array:
        """Negative log-likelihood of each image's label [N]."""
        return -self.log_probabilities(self.labels)

    @cached_property
    def confidence(self) -> Array:
        """Probability of the predicted class [N]."""
        return np.exp(self.log_probabilities(self.predicted))

    @property
    def stated(self) -> Array:
        """What the calibration error holds against what is right: the confidence."""
        return self.confidence

    @property
    def label_probability(self) -> Array:
        """Probability of each image's label [N]."""
        return np.exp(self.log_probabilities(self.labels))

    def off(self, stated: npt.NDArray[Any]) -> float:
        """Largest difference of a graph's probabilities of the predicted classes to these; all are given [N, C]."""
        return float(np.abs(stated[np.arange(len(self.labels)), self.predicted] - self.confidence).max())

    def written(self, classes: Sequence[str]) -> tuple[list[str], list[str]]:
        """Each image's label, and the predicted class, by name."""
        return [classes[place] for place in self.labels], [classes[place] for place in self.predicted]

    @cached_property
    def calibration(self) -> CalibrationError:
        """Gap between confidence and accuracy."""
        return calibration_error(self.confidence, self.right, self.groups)

    @cached_property
    def counts(self) -> tuple[Array, Array, Array]:
        """Of each class: its images, the images that were taken for it, and those of both [C]."""
        images, claims, right = (
            np.bincount(which, minlength=self.classes).astype(np.float64)
            for which in (self.labels, self.predicted, self.labels[self.right])
        )
        return images, claims, right

    @cached_property
    def ranking(self) -> Ranking:
        """One class against the rest, each class in turn."""
        total, most = len(self.labels), max(1, RANKED // self.classes)
        places = evenly_spaced(total, most)
        labels, normalisers = self.labels[places], self._normalisers[places]
        logits = self.logits if len(places) == total else self.logits[places]

        def of_class(index: int) -> tuple[Array, npt.NDArray[np.bool_]]:
            scores = logits[:, index].astype(np.float64) / self.temperature - normalisers
            return np.round(scores, DIGITS), labels == index

        return rank_classes(places, self.classes, of_class)

    def class_metrics(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Precision, recall, F1 and number of images of each class by name."""
        images, claims, right = self.counts
        precision, recall = right / np.maximum(claims, 1), right / np.maximum(images, 1)
        f1 = 2 * right / np.maximum(images + claims, 1)
        return {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "images": int(images[index]),
            }
            for index, name in enumerate(names)
        }

    def label_curves(self, classes: Sequence[str]) -> dict[str, Any]:
        """What else there is to draw; nothing of one class an image."""
        return {}

    def confusions(self, classes: Sequence[str]) -> dict[str, Any]:
        """``confusion_matrix`` [true][predicted], None of many classes, and ``confusions``, the most frequent ones."""
        return confusions_of(self.labels, self.predicted, classes)

    def _interval(self, name: str) -> tuple[float, float]:
        if name in ("loss", "nll"):
            return mean_interval(self.losses, self.groups)
        if name == "expected_calibration_error":
            return self.calibration.interval
        value, (influence, independent, groups) = self._value(name), self._influence(name)
        if not math.isfinite(value):
            return math.nan, math.nan
        return bounded_interval(value, influence, independent, groups)

    def _value(self, name: str) -> float:
        return VALUES[name](self)

    def _influence(self, name: str) -> Influence:
        return INFLUENCES[name](self)

    @property
    def _independent(self) -> float:
        """Images that tell as much of a mean over the classes: each class's part rests on its own images alone."""
        images = self.counts[0][self.counts[0] > 0]
        return float(len(images) ** 2 / (1 / images).sum())


def _balanced_accuracy(scores: SplitScores) -> float:
    images, _, right = scores.counts
    there = images > 0
    return float((right[there] / images[there]).mean())


def _macro_f1(scores: SplitScores) -> float:
    images, claims, right = scores.counts
    known = images + claims > 0
    return float((2 * right[known] / (images + claims)[known]).mean())


VALUES: dict[str, Callable[[SplitScores], float]] = {
    "loss": lambda scores: float(scores.losses.mean()),
    "nll": lambda scores: float(scores.losses.mean()),
    "accuracy": lambda scores: float(scores.right.mean()),
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auroc": lambda scores: scores.ranking.auroc,
    "average_precision": lambda scores: scores.ranking.average_precision,
    "expected_calibration_error": lambda scores: scores.calibration.value,
    "majority_class_accuracy": lambda scores: float(scores.counts[0].max() / len(scores.labels)),
    "images": lambda scores: len(scores.labels),
}
"""Each metric of a split."""

Influence = tuple[Array, float, Sequence[str] | None]
"""N times a metric's derivative by each image's weight [N], the independent images that tell as much, and groups."""


def _accuracy_influence(scores: SplitScores) -> Influence:
    hits = scores.right.astype(np.float64)
    return hits - hits.mean(), len(hits), scores.groups


def _balanced_accuracy_influence(scores: SplitScores) -> Influence:
    images, _, right = scores.counts
    recall = right / np.maximum(images, 1)
    unit = len(scores.labels) / ((images > 0).sum() * images[scores.labels])
    return unit * (scores.right - recall[scores.labels]), scores._independent, scores.groups


def _macro_f1_influence(scores: SplitScores) -> Influence:
    images, claims, right = scores.counts
    both = images + claims
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, unit = 2 * right / both, len(scores.labels) / ((both > 0).sum() * both)
    by_label, by_claim = (unit[end] * (scores.right - f1[end]) for end in (scores.labels, scores.predicted))
    return by_label + by_claim, scores._independent, scores.groups


def _ranking_influence(scores: SplitScores, influence: Array) -> Influence:
    places = scores.ranking.places
    groups = None if scores.groups is None else [scores.groups[place] for place in places]
    return influence, scores._independent * len(places) / len(scores.labels), groups


INFLUENCES: dict[str, Callable[[SplitScores], Influence]] = {
    "accuracy": _accuracy_influence,
    "balanced_accuracy": _balanced_accuracy_influence,
    "macro_f1": _macro_f1_influence,
    "auroc": lambda scores: _ranking_influence(scores, scores.ranking.auroc_influence),
    "average_precision": lambda scores: _ranking_influence(scores, scores.ranking.average_precision_influence),
}
"""What carries the interval of each metric in [0, 1]."""


def split_metrics(
    logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float = 1.0, names: Iterable[str] = METRICS
) -> dict[str, float]:
    """Metrics of a split by name; see :meth:`SplitScores.metrics`."""
    return SplitScores(logits, labels, temperature).metrics(names)


def score_by(chosen: str, metrics: Mapping[str, Any]) -> tuple[float, float]:
    """What makes a classifier the better one on validation: the chosen metric, and of equals the smaller loss."""
    value, loss = float(metrics[chosen]), -float(metrics["loss"])
    if not math.isfinite(value):  # a correlation, where all predictions are one class
        return -math.inf, loss
    return (-value if chosen in SMALLER_IS_BETTER else value), loss
