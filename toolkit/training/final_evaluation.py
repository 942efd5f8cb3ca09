"""The end of a run: what the saved classifier gives on every split, calibrated."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from toolkit.data.dataset import Loader
from toolkit.data.source import DataSource
from toolkit.files import write_bytes, write_json
from toolkit.metrics.curves import curves_of
from toolkit.metrics.report import CALIBRATED, metrics_of, uncalibrated_of
from toolkit.metrics.split import SplitScores
from toolkit.models.classifier import Classifier
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.tasks.task import Task, Temperature
from toolkit.text import is_utf8, path_text
from toolkit.training.activation_source import ActivationSource, PixelSource
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.boundary import Boundary
from toolkit.training.evaluation import predict_split
from toolkit.training.number_evaluation import NumberEvaluation
from toolkit.training.progress import console, counting
from toolkit.training.stopwatch import Stopwatch

DENSE_CELLS = 500_000
"""Images times classes up to which the table of predictions holds every logit."""
LIKELIEST = 5
"""Classes of an image that a larger table holds."""
LISTED_SKIPPED = 100


def predict_splits(
    classifier: Classifier,
    boundary: Boundary,
    loaders: Mapping[str, Loader],
    plan: Callable[[str], BatchSchedule],
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Logits [images, classes] of splits, from the image files through all that production will run.

    That is the whole classifier, or the run's own trunk and the classifier's groups behind it. The training split
    comes from the boundary cache where that holds its plain images.
    """
    watch, logits = Stopwatch(accelerator.device), {}
    for split, loader in loaders.items():
        cached = boundary.plain_feed(split)
        feed: ActivationSource = cached or PixelSource(loader, boundary.trunk, accelerator.device)
        start = 0 if cached is None and boundary.trunk is None else boundary.start
        if accelerator.is_main_process and not console.is_terminal:
            console.print(f"evaluating {split}: {plan(split).images:,} images")
        with counting(f"evaluating {split}", accelerator.is_main_process) as progress:
            logits[split] = predict_split(
                classifier, start, feed, plan(split), len(classifier.labels), accelerator, watch, progress
            )
        loader.close()
    return logits


class FinalEvaluation:
    """Everything that a finished run says of its classifier; made in one process.

    Args:
        task: what is predicted.
        data: with the labels and groups.
        logits: of every split, [images, classes].
        temperature: of the probabilities.
        thresholds: of labels, where an image may have several.
    """

    def __init__(
        self,
        task: Task,
        data: DataSource,
        logits: Mapping[str, Tensor],
        temperature: Temperature,
        thresholds: LabelThresholds | None = None,
    ) -> None:
        self.task, self.data, self.temperature = task, data, temperature
        cuts = None if thresholds is None else thresholds.array()

        def scores(split: str, temperature: Temperature) -> SplitScores:
            return task.scores(logits[split], data.labels(split), temperature, data.groups(split)).at(cuts)

        self.scores = {split: scores(split, temperature) for split in data.splits}
        self.as_trained = {split: scores(split, 1.0) for split in ("validation", "test")}

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says of the splits and of the data set."""
        data, test = self.data, self.scores["test"]
        metrics: dict[str, Any] = {split: scores.metrics() for split, scores in self.scores.items()}
        metrics["test"] = metrics_of(test, data.classes)
        return metrics | {
            "uncalibrated": {
                "validation": self.as_trained["validation"].metrics(CALIBRATED),
                "test": uncalibrated_of(self.as_trained["test"]),
            },
            **self.calibration(),
            "classes": data.classes,
            "images": {split: len(examples) for split, examples in data.splits.items()},
            "skipped": len(data.skipped),
            "skipped_images": data.skipped[:LISTED_SKIPPED],
            "data_fingerprint": data.fingerprint,
            "data": {key: data.about[key] for key in ("name", "source", "licence") if key in data.about},
            **test.confusions(data.classes),
        }

    def calibration(self) -> dict[str, Any]:
        """The temperature, the interval that it may lie in, and a sentence where validation says little about it."""
        validation = self.as_trained["validation"]
        logits, labels = map(torch.from_numpy, (validation.logits, validation.labels))
        return self.task.calibration(self.temperature, logits, labels)

    def curves(self) -> dict[str, Any]:
        """What the plots of the test split draw."""
        return curves_of(self.scores["test"], self.as_trained["test"], self.data.classes)

    def predictions_csv(self) -> bytes:
        """The test split in its order as a table.

        ``path``, ``label``, ``predicted``, ``probability`` of the predicted class and ``label_probability``, both
        calibrated, and the logits as the network gave them; of many images and classes the likeliest classes with
        their probabilities in place of the logits.
        """
        data, test = self.data, self.scores["test"]
        dense = test.logits.size <= DENSE_CELLS
        likeliest = min(LIKELIEST, test.classes)
        head = [f"logit:{name}" for name in data.classes] if dense else _likeliest_columns(likeliest)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "predicted", "probability", "label_probability", *head])
        probabilities = zip(test.confidence, test.label_probability, strict=True)
        names = list(zip(*test.written(data.classes), strict=True))
        ranked = None if dense else test.likeliest(likeliest)
        for place, (example, (probability, of_label)) in enumerate(
            zip(data.splits["test"], probabilities, strict=True)
        ):
            path = example.path
            if is_utf8(str(path)) and path.is_relative_to(data.root):
                path = path.relative_to(data.root)
            if ranked is None:
                rest = test.logits[place].tolist()
            else:
                rest = [
                    cell
                    for index, share in zip(*(part[place] for part in ranked), strict=True)
                    for cell in (data.classes[index], f"{share:.6g}")
                ]
            table.writerow([path_text(path), *names[place], float(probability), float(of_label), *rest])
        return text.getvalue().encode()


def write_outcome(run: Path, outcome: FinalEvaluation | NumberEvaluation) -> None:
    """Write what a classifier says of the test images into a run folder."""
    write_bytes(run / "test_predictions.csv", outcome.predictions_csv())
    if isinstance(outcome, FinalEvaluation):
        write_json(run / "test_curves.json", outcome.curves())


def _likeliest_columns(count: int) -> list[str]:
    return [column for rank in range(1, count + 1) for column in (f"class {rank}", f"probability {rank}")]


def calibrate(classifier: Classifier, logits: Tensor, labels: Tensor) -> Temperature:
    """Give a classifier the temperature that fits a validation split; returned too."""
    temperature = classifier.task.temperature(logits, labels)
    classifier.temperature.copy_(torch.as_tensor(temperature))
    return temperature
