"""The end of a run that predicts a number: what the saved classifier gives on every split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.metrics.number_split import NumberScores
from toolkit.text import is_utf8, path_text

LISTED_SKIPPED = 100


class NumberEvaluation:
    """Everything that a finished run says of its numbers; made in one process.

    Args:
        data: with the true numbers and groups.
        logits: of every split, [images, 1].
    """

    def __init__(self, data: DataSource, logits: Mapping[str, Tensor]) -> None:
        self.data = data
        self.scores = {
            split: NumberScores(logits[split], data.labels(split), 1.0, data.groups(split)) for split in data.splits
        }

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says of the splits and of the data set."""
        data, test = self.data, self.scores["test"]
        metrics: dict[str, Any] = {split: scores.metrics() for split, scores in self.scores.items()}
        metrics["test"] |= {"intervals": test.intervals()}
        return metrics | {
            "temperature": 1.0,
            "temperature_note": "",
            "classes": data.classes,
            "images": {split: len(examples) for split, examples in data.splits.items()},
            "skipped": len(data.skipped),
            "skipped_images": data.skipped[:LISTED_SKIPPED],
            "data_fingerprint": data.fingerprint,
            "data": {key: data.about[key] for key in ("name", "source", "licence") if key in data.about},
        }

    def predictions_csv(self) -> bytes:
        """The test split in its order as a table: ``path``, ``label`` (the true number), ``predicted``, ``error``."""
        data, test = self.data, self.scores["test"]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "predicted", "error"])
        for example, label, value in zip(data.splits["test"], test.labels, test.values, strict=True):
            path = example.path
            if is_utf8(str(path)) and path.is_relative_to(data.root):
                path = path.relative_to(data.root)
            table.writerow([path_text(path), float(label), float(value), float(value - label)])
        return text.getvalue().encode()
