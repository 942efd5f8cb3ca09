"""The best classifier of a run: written when validation finds it, mixed, calibrated and measured at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from toolkit.data.dataset import Loader
from toolkit.data.source import DataSource
from toolkit.files import explain_os_errors, staged_folder
from toolkit.metrics.split import score_by
from toolkit.models.build import load_classifier, save_classifier, trainable_groups
from toolkit.models.classifier import Classifier
from toolkit.models.selection import freeze_all_but
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.averaging import choose_alpha, pretrained_weights
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.boundary import Boundary
from toolkit.training.final_evaluation import FinalEvaluation, calibrate, predict_splits, write_outcome
from toolkit.training.label_thresholds import choose_thresholds, thresholds_in_summary
from toolkit.training.number_evaluation import NumberEvaluation
from toolkit.training.operating_point import operating_point
from toolkit.training.processes import on_main_process
from toolkit.training.progress import console


class BestClassifier:
    """What lies in ``best/`` of a run.

    Args:
        run: its folder.
        recipe: of the run.
        data: it learns on.
        processor: its image processor.
        trained: the classifier that learns, whose trainable groups the best one has.
        original: pre-trained weights before training, to mix with; none without ``wise_ft``.
        boundary: gives activations of the splits.
        loaders: of every split, without augmentation.
        accelerator: of all processes.
    """

    def __init__(
        self,
        *,
        run: RunFolder,
        recipe: Recipe,
        data: DataSource,
        processor: Any,
        trained: Classifier,
        original: Mapping[str, Tensor],
        boundary: Boundary,
        loaders: Mapping[str, Loader],
        accelerator: Accelerator,
    ) -> None:
        self.run, self.recipe, self.data, self.processor = run, recipe, data, processor
        self.trained, self.original, self.boundary, self.loaders = trained, original, boundary, loaders
        self.accelerator = accelerator

    def save(self, classifier: Classifier, weights: dict[str, Tensor] | None = None) -> None:
        """Write a classifier to ``best/``, in place of what is there."""
        folder = self.run.best
        stage = staged_folder(folder, what="checkpoint", marker="model.safetensors", replace=True, durable=True)
        with explain_os_errors(folder), stage as path:
            save_classifier(path, classifier, self.recipe.model.head, self.processor, weights)

    def validation_metrics(self, logits: Tensor) -> dict[str, float]:
        """What an epoch says of validation: loss, the task's headline, and what selects the epoch."""
        names = dict.fromkeys(("loss", self.trained.task.headline, self.recipe.training.select_by))
        return self.trained.task.scores(logits, self.data.labels("validation")).metrics(names)

    def schedule(self, split: str) -> BatchSchedule:
        """A split in its own order, a batch for each process at a time."""
        return BatchSchedule(
            images=len(self.data.splits[split]),
            batch_size=self.recipe.training.batch_size,
            batches_per_step=self.accelerator.num_processes,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )

    def evaluated(self) -> dict[str, Any]:
        """Load what was saved, fit the temperature on validation, measure every split; its part of the summary."""
        best, _ = load_classifier(self.run.best)
        best.to(self.accelerator.device)
        wise_ft = self._interpolate(best) if self.original else None
        logits = self._predict(best, *self.loaders)
        return on_main_process(self.accelerator, lambda: self._write_outcome(best, logits)) | {"wise_ft": wise_ft}

    def _write_outcome(self, best: Classifier, logits: dict[str, Tensor]) -> dict[str, Any]:
        """Calibrate the classifier, save it again, and write what it says of the test images."""
        if not console.is_terminal:
            console.print("computing metrics and intervals")
        started = time.perf_counter()
        temperature = calibrate(best, logits["validation"], torch.from_numpy(self.data.labels("validation")))
        freeze_all_but(best.groups, best, trainable_groups(self.trained))
        self.save(best)
        aim = self.recipe.training.thresholds
        thresholds = choose_thresholds(aim, self.data, logits)
        task = self.trained.task
        outcome: FinalEvaluation | NumberEvaluation
        if task.target == "number":
            outcome = NumberEvaluation(self.data, logits)
        else:
            outcome = FinalEvaluation(task, self.data, logits, temperature, thresholds)
        write_outcome(self.run.path, outcome)
        decision, asked = self.trained.task.decision, self.recipe.training.operating_point
        summary = outcome.summary()
        summary |= thresholds_in_summary(aim, thresholds, self.data.classes, temperature)
        summary |= {"operating_point": operating_point(asked, decision, self.data, logits, temperature)}
        return summary | {"seconds": {"metrics": time.perf_counter() - started}}

    def _interpolate(self, best: Classifier) -> dict[str, Any]:
        """Mix the original weights into the best classifier by the share that validation chooses.

        A run that is resumed at its end finds mixed weights in ``best/``, so the fine-tuned ones are kept apart.
        """
        freeze_all_but(best.groups, best, trainable_groups(self.trained))
        head = self.recipe.model.head.init == "text"
        tuned = self.run.fine_tuned(self.original) or pretrained_weights(best, head=head)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.run.keep_fine_tuned(tuned)

        def metrics() -> dict[str, float]:
            return self.validation_metrics(self._predict(best, "validation")["validation"])

        chosen = self.recipe.training.select_by
        return choose_alpha(best, self.original, tuned, metrics, lambda each: score_by(chosen, each))

    def _predict(self, best: Classifier, *splits: str) -> dict[str, Tensor]:
        loaders = {split: self.loaders[split] for split in splits}
        return predict_splits(best, self.boundary, loaders, self.schedule, self.accelerator)
