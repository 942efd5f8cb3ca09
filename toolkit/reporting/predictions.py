"""What the kept classifier said of every test image, read back from the run folder."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolkit.errors import ToolkitError

FILE = "test_predictions.csv"
LOGIT = "logit:"
"""Starts the names of the columns that hold logits; the class's name follows."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """The test split in its order.

    ``logits`` [images, classes] as the network gives them, ``labels`` [images].
    """

    paths: list[str]
    classes: list[str]
    labels: npt.NDArray[np.int64]
    logits: Array
    temperature: float

    def probabilities(self, *, calibrated: bool = True) -> Array:
        """Softmax of the logits [images, classes], divided by the temperature if ``calibrated``."""
        scaled = self.logits / (self.temperature if calibrated else 1.0)
        exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        shares: Array = exponents / exponents.sum(axis=1, keepdims=True)
        return shares

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The class with the largest logit [images]."""
        return self.logits.argmax(axis=1)


def read_predictions(run: Path) -> Predictions:
    """Read ``test_predictions.csv`` of a run.

    Raises:
        ToolkitError: it is missing or damaged.
    """
    path = run / FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        columns = [index for index, name in enumerate(rows[0]) if name.startswith(LOGIT)]
        classes = [rows[0][index].removeprefix(LOGIT) for index in columns]
        return Predictions(
            paths=[row[0] for row in rows[1:]],
            classes=classes,
            labels=np.array([classes.index(row[1]) for row in rows[1:]]),
            logits=np.array([[float(row[index]) for index in columns] for row in rows[1:]]),
            temperature=json.loads((run / "summary.json").read_text())["temperature"],
        )
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ToolkitError(f"can't read the predictions: {error}", where=path, fix="train again") from error
