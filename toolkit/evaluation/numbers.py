"""A bundle that predicts a number, on images whose numbers are known."""

# N images

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.data.evaluation_data import EvaluationData
from toolkit.data.samples import groups_of, labels_of
from toolkit.evaluation.origin import origin_of
from toolkit.evaluation.record import NumberEvaluation
from toolkit.metrics.intervals import Array
from toolkit.metrics.number_split import NumberScores
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.preprocess import Float32
from toolkit.strict_json import as_utf8
from toolkit.text import path_text

WORST = 24
"""Errors that are listed."""


def number_evaluation(
    bundle: Bundle, data: EvaluationData, values: Float32, precision: str, provider: str
) -> NumberEvaluation:
    """What a graph's numbers are worth.

    Args:
        bundle: whose graph gave them.
        data: the images, with the true numbers.
        values: the graph's [N, 1].
        precision: of the graph.
        provider: that it ran on.
    """
    scores = NumberScores(values, labels_of(data.images), groups=groups_of(data.images))
    content = {
        **scores.metrics(),
        "intervals": scores.intervals(),
        "number": bundle.labels[0],
        "worst": _worst(
            [path_text(image.path) for image in data.images], labels_of(data.images).astype(np.float64), scores.values
        ),
        **origin_of(bundle, data, precision, provider),
    }
    return NumberEvaluation.model_validate(as_utf8(content, finite=True))


def _worst(paths: Sequence[str], labels: Array, values: Array) -> list[dict[str, object]]:
    order = np.argsort(-np.abs(values - labels), kind="stable")[:WORST]
    return [{"path": paths[at], "label": float(labels[at]), "predicted": float(values[at])} for at in order]
