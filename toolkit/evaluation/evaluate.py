"""A bundle's graph on labelled images: predicted as ``predict`` does, scored as a run's test split is."""

# N images, C classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.evaluation_data import EvaluationData
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.samples import groups_of, labels_of
from toolkit.errors import ToolkitError
from toolkit.evaluation.numbers import number_evaluation
from toolkit.evaluation.origin import origin_of
from toolkit.evaluation.record import RECORDS, Evaluation, NumberEvaluation
from toolkit.metrics.by_task import SCORES
from toolkit.metrics.curves import curves_of
from toolkit.metrics.operating_point import rates
from toolkit.metrics.report import metrics_of, uncalibrated_of
from toolkit.metrics.split import Integers, SplitScores
from toolkit.progress import SILENT, Progress
from toolkit.reporting.predictions import Predictions, worst
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import Decision
from toolkit.runtime.preprocess import Float32
from toolkit.serving.classifier import Classifier
from toolkit.strict_json import as_utf8
from toolkit.text import path_text

SAME = 1e-3
"""By so much the graph's probability of a label, in fp32, may differ from that of its logits and temperature."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what its plots draw."""

    record: Evaluation | NumberEvaluation
    summary: dict[str, Any]
    """As a run's, with the evaluated split in the place of ``test``."""
    curves: dict[str, Any]
    """As ``test_curves.json``; see :func:`toolkit.metrics.curves.curves_of`."""
    predictions: Predictions | None
    """None of numbers, whose plots are drawn from the values."""
    images: list[LabelledImage]
    values: Float32 | None = None
    """Numbers [N, 1], where the bundle says these."""


def evaluate_bundle(
    bundle: Bundle,
    data: EvaluationData,
    *,
    precision: str | None = None,
    provider: str | None = None,
    progress: Progress = SILENT,
) -> Evaluated:
    """Run a bundle's graph on labelled images and score what it gives.

    Args:
        bundle: opened.
        data: with the bundle's classes.
        precision: of the graph; as tuned, or the bundle's default.
        provider: as tuned, or the CPU.
        progress: told how many images are done.

    Raises:
        ToolkitError: a provider or precision that is not there, an image that can't be read any more, or
            probabilities that are not those of the logits.
    """
    numbers = bundle.decision.outputs != Decision.outputs
    kind = "number" if numbers else "labels" if bundle.decision.several_labels else "class"
    if data.target.kind != kind:
        what = f"the bundle's task is {bundle.manifest.task}, and the data has another kind of labels"
        fix = "name its column: columns.label=NAME, columns.labels=NAME or columns.number=NAME"
        raise ToolkitError(what, where=data.config.path, fix=fix)
    tuned = bundle.tuned_for(provider, precision)
    precision = tuned.precision if tuned else precision or bundle.precisions[0]
    provider = tuned.provider if tuned else provider or "cpu"
    logits, stated = _predict(bundle, data.images, precision, provider, progress)
    if numbers:
        record = number_evaluation(bundle, data, logits, precision, provider)
        return Evaluated(record, {data.split: record.model_dump()}, {}, None, data.images, logits)
    labels, groups, temperature = labels_of(data.images), groups_of(data.images), bundle.temperature(precision)
    calibrated, as_trained = (SCORES[bundle.manifest.task](logits, labels, each, groups) for each in (temperature, 1.0))
    calibrated, as_trained = (each.at(bundle.decision.cuts) for each in (calibrated, as_trained))
    if not calibrated.off(stated) <= SAME:
        at = f"{temperature:g}" if isinstance(temperature, float) else "one for each label"
        what = f"the {precision} graph's probabilities are not those of its logits at its temperature, {at}"
        raise ToolkitError(what, where=bundle.path, fix="export it again")
    predictions, classes = _predictions(calibrated, data), bundle.labels
    summary = {
        data.split: metrics_of(calibrated, classes),
        "uncalibrated": {data.split: uncalibrated_of(as_trained)},
        "temperature": temperature,
        "classes": classes,
        **calibrated.confusions(classes),
    }
    about = {
        "worst": _worst(predictions),
        "uncalibrated": summary["uncalibrated"][data.split],
        "operating_point": _at_operating_point(bundle, logits, labels, groups),
        "absent_classes": data.absent_classes,
        **origin_of(bundle, data, precision, provider),
    }
    kept = {key: summary[key] for key in ("temperature", "classes", "confusion_matrix", "confusions")}
    schema = RECORDS.get(bundle.manifest.task, Evaluation)
    if data.target.several_in_one:
        about |= {"thresholds": dict(zip(classes, _cuts(bundle), strict=True))}
    found = schema.model_validate(as_utf8(summary[data.split] | kept | about, finite=True))
    return Evaluated(found, summary, curves_of(calibrated, as_trained, classes), predictions, data.images)


def _predict(
    bundle: Bundle, images: list[LabelledImage], precision: str, provider: str, progress: Progress
) -> tuple[Float32, Float32]:
    """Logits and the graph's own probabilities, both [N, C]; images are held a few batches at a time."""
    logits, stated = (np.empty((len(images), len(bundle.labels)), np.float32) for _ in range(2))
    progress.stage("evaluating")
    with Classifier.open(bundle, precision=precision, provider=provider) as classifier:
        sources = (image.taken_by(classifier.reader) for image in images)
        for place, predicted in enumerate(classifier.stream(sources)):
            if isinstance(predicted, ToolkitError):
                raise ToolkitError(predicted.what, where=images[place].path, fix=predicted.fix) from predicted
            logits[place] = predicted.logits
            if predicted.value is None:
                stated[place] = list(predicted.probabilities.values())
            progress.done(place + 1, len(images))
    return logits, stated


def _cuts(bundle: Bundle) -> list[float | None]:
    """Logits from which on each label is said; None for one that never is."""
    thresholds = bundle.manifest.thresholds
    return [0.0] * len(bundle.labels) if thresholds is None else list(thresholds.cuts)


def _at_operating_point(
    bundle: Bundle, logits: Float32, labels: Integers, groups: Sequence[str] | None
) -> dict[str, Any] | None:
    """The shipped threshold and both rates at it; None without one, or without images on both sides."""
    point = bundle.manifest.operating_point
    if point is None:
        return None
    place = bundle.labels.index(point.label)
    positive = labels == place
    if positive.all() or not positive.any():
        return None
    found = rates(bundle.decision.decide(logits) == place, positive, groups)
    return {"class": point.label, "threshold": point.threshold} | found


def _predictions(scores: SplitScores, data: EvaluationData) -> Predictions:
    paths = [path_text(image.path) for image in data.images]
    return Predictions(paths, *scores.written(data.classes), scores.confidence, scores.label_probability)


def _worst(predictions: Predictions) -> list[dict[str, Any]]:
    return [
        {
            "path": predictions.paths[place],
            "label": predictions.labels[place],
            "predicted": predictions.predicted[place],
            "probability": float(predictions.probability[place]),
        }
        for place in worst(predictions)[0]
        if predictions.predicted[place] != predictions.labels[place]
    ]
