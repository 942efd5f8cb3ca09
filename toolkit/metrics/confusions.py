"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

DENSE_CLASSES = 100
"""More classes than this have no matrix of confusions, only the most frequent ones."""
CONFUSIONS = 50
"""Confusions that are listed."""


def confusions_of(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """``confusion_matrix`` [true][predicted], None of many classes, and ``confusions``, the most frequent ones."""
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    wrong = [
        {"label": classes[label], "predicted": classes[predicted], "images": int(count)}
        for label, predicted, count in zip(*pairs, counts, strict=True)
        if label != predicted
    ]
    wrong.sort(key=lambda each: -each["images"])
    matrix = None
    if len(classes) <= DENSE_CLASSES:
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[tuple(pairs)] = counts
    return {"confusion_matrix": None if matrix is None else matrix.tolist(), "confusions": wrong[:CONFUSIONS]}
