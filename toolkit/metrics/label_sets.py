"""The metrics of a split whose images have several labels each, or none: of whole sets, of each label, and their means.

Each label is a question of its own, answered by whether its logit reaches a cut. Intervals take images for independent,
never the labels of one image. Labels that no image shows have neither recall nor AUROC nor average precision, and are
left out of means.
"""

# N images, C labels

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from toolkit.metrics.calibration import CalibrationError, calibration_error
from toolkit.metrics.class_ranking import Ranking, rank_classes
from toolkit.metrics.intervals import Array, bounded_interval
from toolkit.metrics.ranking import rank_class
from toolkit.metrics.split import METRICS, RANKED, WITH_INTERVAL, Influence, Integers, SplitScores
from toolkit.sampling import evenly_spaced

Flags = npt.NDArray[np.bool_]
LABEL_METRICS = ("precision", "recall", "f1", "average_precision")
"""Metrics of a label that have an interval."""
CURVES = 10
"""Labels whose calibration is drawn."""
CELLS = 2_000_000
"""Images times labels that the calibration error is computed on, at most: of a larger split, even places."""


class LabelSetScores(SplitScores):
    """As :class:`~toolkit.metrics.split.SplitScores`, for labels [N, C] of 0 and 1.

    ``accuracy`` counts an image as right if all of its labels are, and no other is said. ``balanced_accuracy`` is the
    mean over the labels of sensitivity and specificity, ``macro_f1``, ``auroc`` and ``average_precision`` (mAP) are
    means over the labels, ``micro_f1`` is the F1 of all answers in one heap. ``loss`` and ``nll`` are the binary
    cross-entropy, summed over the labels. The calibration error is that of yes and no: how far the probability of a
    label lies from how often it is there. ``majority_class_accuracy`` is that of always saying the most frequent set.

    Args:
        logits: [N, C].
        labels: [N, C].
        temperature: of all labels, or one for each [C].
        groups: of each image.
        cuts: logits [C] from which on a label is said; 0, a probability of a half, unless given.
    """

    names = (*METRICS[:5], "micro_f1", *METRICS[5:])
    names_with_interval = (*WITH_INTERVAL[:5], "micro_f1", *WITH_INTERVAL[5:])

    def __init__(
        self,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        temperature: npt.ArrayLike = 1.0,
        groups: Sequence[str] | None = None,
        cuts: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(logits, labels, 1.0, groups)
        self.scale: Array = np.broadcast_to(np.asarray(temperature, np.float64), (self.classes,))
        self.cuts = np.zeros(self.classes, np.float32) if cuts is None else np.asarray(cuts, np.float32)
        self.positive: Flags = self.labels > 0

    def at(self, cuts: npt.ArrayLike | None) -> LabelSetScores:
        """The same scores with other cuts."""
        return LabelSetScores(self.logits, self.labels, self.scale, self.groups, cuts)

    @cached_property
    def _scaled(self) -> Array:
        return np.asarray(self.logits, np.float64) / self.scale

    @cached_property
    def probabilities(self) -> Array:
        """Of each label [N, C]."""
        return np.asarray(expit(self._scaled), np.float64)

    @cached_property
    def said(self) -> Flags:
        """Whether each label is said [N, C]; compared in single precision, as the graph does it."""
        said: Flags = np.asarray(self.logits, np.float32) >= self.cuts
        return said

    @cached_property
    def right(self) -> Flags:
        """Whether the labels that are said are those of the image [N]."""
        right: Flags = (self.said == self.positive).all(-1)
        return right

    @cached_property
    def losses(self) -> Array:
        """Binary cross-entropy of each image, over all labels [N]."""
        return np.asarray(np.logaddexp(0.0, np.where(self.positive, -self._scaled, self._scaled)).sum(-1))

    @cached_property
    def confidence(self) -> Array:
        """Probability of the labels that are said, and of no other one [N]."""
        return np.asarray(np.exp(-np.logaddexp(0.0, np.where(self.said, -self._scaled, self._scaled)).sum(-1)))

    @property
    def label_probability(self) -> Array:
        """Probability of the image's labels, and of no other one [N]."""
        return np.exp(-self.losses)

    def likeliest(self, count: int) -> tuple[Integers, Array]:
        """The likeliest labels of each image and their probabilities, both [N, count]."""
        places = np.argsort(-self.probabilities, -1, kind="stable")[:, :count]
        return places, np.take_along_axis(self.probabilities, places, 1)

    def off(self, stated: npt.NDArray[Any]) -> float:
        """Largest difference of a graph's probabilities [N, C] to these."""
        return float(np.abs(stated - self.probabilities).max())

    def written(self, classes: Sequence[str]) -> tuple[list[str], list[str]]:
        """Each image's labels, and those that are said, as text."""
        return tuple(  # type: ignore[return-value]
            [", ".join(classes[int(place)] for place in np.flatnonzero(row)) for row in rows]
            for rows in (self.positive, self.said)
        )

    @property
    def _places(self) -> Integers:
        """Images that the calibration error is computed on."""
        return evenly_spaced(len(self.labels), max(1, CELLS // self.classes))

    @cached_property
    def stated(self) -> Array:
        """Probability of each label of each image, in one heap."""
        return self.probabilities[self._places].ravel()

    @cached_property
    def calibration(self) -> CalibrationError:
        """Gap between the probability of a label and how often it is there; the labels of an image are one group."""
        places = self._places
        of = [str(place) for place in places] if self.groups is None else [self.groups[int(place)] for place in places]
        groups = np.repeat(np.array(of), self.classes).tolist()
        return calibration_error(self.stated, self.positive[places].ravel(), groups)

    def label_calibration(self, place: int) -> CalibrationError:
        """The same of one label."""
        return calibration_error(self.probabilities[:, place], self.positive[:, place], self.groups)

    @cached_property
    def counts(self) -> tuple[Array, Array, Array]:
        """Of each label: its images, the images it is said of, and those of both [C]."""
        images, claims, right = (
            each.sum(0).astype(np.float64) for each in (self.positive, self.said, self.positive & self.said)
        )
        return images, claims, right

    @cached_property
    def _ranked_places(self) -> Integers:
        return evenly_spaced(len(self.labels), max(1, RANKED // self.classes))

    def _of_label(self, place: int) -> tuple[Array, Flags]:
        """Logits of a label for the images that are ranked, and which of them show it."""
        places = self._ranked_places
        return self.logits[places, place].astype(np.float64), self.positive[places, place]

    @cached_property
    def ranking(self) -> Ranking:
        """One label against its absence, each in turn."""
        return rank_classes(self._ranked_places, self.classes, self._of_label)

    @property
    def _independent(self) -> float:
        """Images that tell as much of a mean over the labels as these, never more than there are."""
        images = self.counts[0][self.counts[0] > 0]
        if not len(images):
            return 1.0
        return float(min(len(self.labels), len(images) ** 2 / (1 / images).sum()))

    def _value(self, name: str) -> float:
        own = OWN_VALUES.get(name)
        return super()._value(name) if own is None else own(self)

    def _influence(self, name: str) -> Influence:
        own = OWN_INFLUENCES.get(name)
        return super()._influence(name) if own is None else own(self)

    def class_metrics(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Precision, recall, F1, average precision and calibration error of each label, with ``intervals``.

        None where there is nothing to compute one from: a precision of a label that is never said, a recall or an
        average precision of one that no image shows.
        """
        return {name: self._label_metrics(place) for place, name in enumerate(names)}

    def _label_metrics(self, place: int) -> dict[str, Any]:
        positive, said = self.positive[:, place], self.said[:, place]
        images, claims, right = (float(each[place]) for each in self.counts)
        ranking, total = rank_class(*self._of_label(place)), len(positive)
        f1 = 2 * right / (images + claims) if images + claims else math.nan
        influence = np.zeros(total)
        if images + claims:
            influence = total * (2.0 * (positive & said) - f1 * (positive.astype(float) + said)) / (images + claims)
        of_ranked = None if self.groups is None else [self.groups[each] for each in self._ranked_places]
        average = ranking.average_precision
        found: dict[str, tuple[float, tuple[float, float]]] = {
            "precision": self._share(right, claims, said, positive),
            "recall": self._share(right, images, positive, said),
            "f1": (f1, self._bounds(f1, influence, max(images, 1.0), self.groups)),
            "average_precision": (
                average,
                self._bounds(average, ranking.average_precision_influence, max(images, 1.0), of_ranked),
            ),
        }
        return {
            **{name: _or_none(value) for name, (value, _) in found.items()},
            "expected_calibration_error": self.label_calibration(place).value,
            "images": int(images),
            "said": int(claims),
            "intervals": {name: [_or_none(end) for end in ends] for name, (_, ends) in found.items()},
        }

    def _share(self, hits: float, of: float, among: Flags, right: Flags) -> tuple[float, tuple[float, float]]:
        """The share of some images that is right, and its interval."""
        if not of:
            return math.nan, (math.nan, math.nan)
        value = hits / of
        groups = None
        if self.groups is not None:
            groups = [group for group, there in zip(self.groups, among, strict=True) if there]
        return value, bounded_interval(value, right[among].astype(np.float64) - value, of, groups)

    def _bounds(
        self, value: float, influence: Array, images: float, groups: Sequence[str] | None
    ) -> tuple[float, float]:
        return bounded_interval(value, influence, images, groups) if math.isfinite(value) else (math.nan, math.nan)

    def label_curves(self, classes: Sequence[str]) -> dict[str, Any]:
        """``label_reliability``: the bins of each label; of many labels those with the largest calibration error."""
        found = [(name, self.label_calibration(place)) for place, name in enumerate(classes)]
        if len(found) > CURVES:
            found = sorted(found, key=lambda pair: -pair[1].value)[:CURVES]
        bins = {
            name: {
                "confidence": each.confidence.tolist(),
                "accuracy": each.accuracy.tolist(),
                "share": each.share.tolist(),
            }
            for name, each in found
        }
        return {"label_reliability": bins}

    def confusions(self, classes: Sequence[str]) -> dict[str, Any]:
        """No label is taken for another where each is a question of its own."""
        return {"confusion_matrix": None, "confusions": []}


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _balanced_accuracy(scores: LabelSetScores) -> float:
    rates = _rates(scores)
    return float(np.mean([each for each in rates if math.isfinite(each)]))


def _rates(scores: LabelSetScores) -> Array:
    """Of each label the mean of sensitivity and specificity [C]; NaN where one of them has no image."""
    images, claims, right = scores.counts
    total = len(scores.labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: Array = (right / images + (total - images - claims + right) / (total - images)) / 2
    return rates


def _balanced_influence(scores: LabelSetScores) -> Influence:
    images, claims, right = scores.counts
    total = len(scores.labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        found, spared = right / images, (total - images - claims + right) / (total - images)
        each = np.where(
            scores.positive,
            total / images * (scores.said - found),
            total / (total - images) * (~scores.said - spared),
        )
    known = np.isfinite(_rates(scores))
    influence = each[:, known].sum(-1) / (2 * max(1, known.sum()))
    return influence, scores._independent, scores.groups


def _macro_f1_influence(scores: LabelSetScores) -> Influence:
    images, claims, right = scores.counts
    both = images + claims
    known = both > 0
    f1, total = 2 * right[known] / both[known], len(scores.labels)
    positive, said = scores.positive[:, known], scores.said[:, known]
    each = total * (2.0 * (positive & said) - f1 * (positive.astype(float) + said)) / both[known]
    return each.sum(-1) / max(1, known.sum()), scores._independent, scores.groups


def _micro_f1(scores: LabelSetScores) -> float:
    images, claims, right = (float(each.sum()) for each in scores.counts)
    return 2 * right / (images + claims) if images + claims else math.nan


def _micro_f1_influence(scores: LabelSetScores) -> Influence:
    both, total = float(scores.counts[0].sum() + scores.counts[1].sum()), len(scores.labels)
    answers = scores.positive.sum(-1) + scores.said.sum(-1)
    hits = (scores.positive & scores.said).sum(-1)
    return total * (2.0 * hits - _micro_f1(scores) * answers) / both, total, scores.groups


def _most_frequent_set(scores: LabelSetScores) -> float:
    counts = np.unique(scores.positive, axis=0, return_counts=True)[1]
    return float(counts.max() / len(scores.labels))


OWN_VALUES: dict[str, Callable[[LabelSetScores], float]] = {
    "balanced_accuracy": _balanced_accuracy,
    "micro_f1": _micro_f1,
    "majority_class_accuracy": _most_frequent_set,
}
OWN_INFLUENCES: dict[str, Callable[[LabelSetScores], Influence]] = {
    "balanced_accuracy": _balanced_influence,
    "macro_f1": _macro_f1_influence,
    "micro_f1": _micro_f1_influence,
}
