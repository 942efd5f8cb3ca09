"""What a classifier said of every image of a split; of the test split it is read back from the run folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolkit.errors import ToolkitError
from toolkit.reporting.wording import images_of

FILE = "test_predictions.csv"
WORST = 24
"""Errors that are shown."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """A split in its order: for each image its path and label, and the predicted class."""

    paths: list[str]
    labels: list[str]
    predicted: list[str]
    probability: Array
    """Calibrated, of the predicted class [images]."""
    label_probability: Array
    """Calibrated, of the label [images]."""


def read_predictions(run: Path) -> Predictions:
    """Read ``test_predictions.csv`` of a run.

    Raises:
        ToolkitError: it is missing or damaged.
    """
    path = run / FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            columns = ("path", "label", "predicted", "probability", "label_probability")
            missing = [name for name in columns if name not in (table.fieldnames or [])]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}")
            rows = [[row[name] for name in columns] for row in table]
        paths, labels, predicted, *shares = zip(*rows, strict=True) if rows else ([] for _ in columns)
        probability, label_probability = (np.array([float(cell) for cell in column]) for column in shares)
    except (OSError, ValueError, TypeError) as error:
        raise ToolkitError(f"can't read the predictions: {error}", where=path, fix="train again") from error
    return Predictions(list(paths), list(labels), list(predicted), probability, label_probability)


def read_numbers(run: Path) -> tuple[Array, Array]:
    """True and predicted numbers [images] in ``test_predictions.csv`` of a run that predicts one.

    Raises:
        ToolkitError: it is missing or damaged.
    """
    path = run / FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(float(row["label"]), float(row["predicted"])) for row in csv.DictReader(file)]
        labels, values = np.array(rows, np.float64).T
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ToolkitError(f"can't read the predictions: {error}", where=path, fix="train again") from error
    return labels, values


def worst(predictions: Predictions, split: str = "test") -> tuple[list[int], str]:
    """Places of up to 24 errors, the highest loss first, and what they are in words.

    Where all is right, these are the images that came nearest to an error.
    """
    order = np.argsort(predictions.label_probability, kind="stable")
    wrong = [int(index) for index in order if predictions.predicted[index] != predictions.labels[index]]
    total = images_of(split, len(order))
    if not wrong:
        return order[:WORST].tolist(), f"no errors on {total}; these came nearest to one"
    shown = "" if len(wrong) <= WORST else f", the worst {WORST}"
    return wrong[:WORST], f"{len(wrong):,} errors on {total}{shown}"
