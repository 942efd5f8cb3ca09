"""``evaluation.json``: its schema, which ``toolkit.evaluate`` returns."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float | None, float | None]


class Record(BaseModel):
    """A part of the file, as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassMetrics(Record):
    """Metrics of a class; all 0 where the images show none of it."""

    precision: float
    recall: float
    f1: float
    images: int


class LabelMetrics(ClassMetrics):
    """Metrics of a label that an image may have beside others; None where there is nothing to compute one from."""

    precision: float | None  # type: ignore[assignment]
    recall: float | None  # type: ignore[assignment]
    f1: float | None  # type: ignore[assignment]
    average_precision: float | None
    expected_calibration_error: float | None
    said: int
    """Images that it is said of."""
    intervals: dict[str, Interval]


class Confusion(Record):
    """Images of a class that are taken for another."""

    label: str
    predicted: str
    images: int


class WorstError(Record):
    """An image that got the wrong class."""

    path: str
    label: str
    predicted: str
    probability: float
    """Calibrated, of the predicted class."""


class Uncalibrated(Record):
    """The metrics that the temperature changes, without it."""

    loss: float | None
    nll: float | None
    expected_calibration_error: float | None
    intervals: dict[str, Interval]


class AtOperatingPoint(Record):
    """What the bundle's threshold gives, one class against the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    label: str = Field(alias="class")
    threshold: float
    """Of the class's calibrated probability."""
    sensitivity: float
    specificity: float
    intervals: dict[str, Interval]
    """95 %, exact."""
    images: int
    """Of the class."""
    others: int


class Evaluation(Record):
    """What a graph of a bundle gives on labelled images; None where there is nothing to compute a metric from."""

    images: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float | None
    auroc: float | None
    average_precision: float | None
    expected_calibration_error: float | None
    loss: float | None
    nll: float | None
    majority_class_accuracy: float
    intervals: dict[str, Interval]
    """95 %, by metric."""
    per_class: Mapping[str, ClassMetrics]
    confusion_matrix: list[list[int]] | None
    """[true][predicted] in the order of ``classes``; None of more than 100."""
    confusions: list[Confusion]
    operating_point: AtOperatingPoint | None = None
    """None where the bundle has none, or the images don't show both sides of it; accuracy and confusions are those of
    the largest logit, whatever the threshold."""
    """The most frequent ones."""
    worst: list[WorstError]
    """The highest loss first."""
    uncalibrated: Uncalibrated
    temperature: float | list[float]
    """Of the graph's probabilities; a list of one for each class where an image may have several."""
    classes: list[str]
    absent_classes: list[str]
    """Classes that none of the images show."""
    split: str
    """``train``, ``validation``, ``test`` or ``all``."""
    data: str
    data_fingerprint: str
    """SHA-256 over the split, class and content of every image that was evaluated."""
    skipped: int
    """Unreadable images that were left out."""
    skipped_images: list[dict[str, str]]
    """The first of them: path and reason."""
    truncated_texts: int | None = None
    """Texts that lost their end, being longer than the network takes; None of images alone."""
    bundle: str
    graph_sha256: str
    precision: str
    provider: str


class OrdinalEvaluation(Evaluation):
    """The same of a bundle whose classes are ordered; accuracy is that of the median class."""

    mae: float
    """Mean distance of predicted and true class, in classes."""
    quadratic_kappa: float | None
    spearman: float | None
    """Of predicted and true class; None where all predictions or all labels are one class."""


class LabelSetEvaluation(Evaluation):
    """The same of a bundle that may say several labels of an image.

    ``accuracy`` counts images whose labels are all right; the other metrics are means over the labels, at the bundle's
    thresholds.
    """

    micro_f1: float | None
    per_class: Mapping[str, LabelMetrics]
    thresholds: dict[str, float | None]
    """Logit from which on each label is said; None for one that never is."""


class NumberError(Record):
    """An image and how its number was said."""

    path: str
    label: float
    predicted: float


class NumberEvaluation(Record):
    """What a graph that predicts a number gives on images whose numbers are known; all in the unit of the data."""

    images: int
    loss: float
    """Mean squared error."""
    mae: float
    rmse: float
    r2: float | None
    spearman: float | None
    mean_baseline_mae: float
    """Of always saying the mean of these images."""
    intervals: dict[str, Interval]
    number: str
    """What it is called."""
    worst: list[NumberError]
    """The largest errors first."""
    split: str
    data: str
    data_fingerprint: str
    skipped: int
    skipped_images: list[dict[str, str]]
    truncated_texts: int | None = None
    bundle: str
    graph_sha256: str
    precision: str
    provider: str


RECORDS: dict[str, type[Evaluation]] = {"ordinal": OrdinalEvaluation, "multi-label": LabelSetEvaluation}
"""By the tasks that say more of a split than :class:`Evaluation` does."""
