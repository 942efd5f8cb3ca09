"""A run folder of a classifier that is ready without the training loop: calibrated, evaluated and written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from toolkit.data.dataset import ImageDataset, Loader
from toolkit.data.source import DataSource
from toolkit.data.target import require_target
from toolkit.files import staged_folder, write_bytes, write_json
from toolkit.models.build import save_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.fp32 import compute_fp32_fully
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import ColumnsConfig
from toolkit.recipe.untrained import UntrainedRecipe
from toolkit.runs.run_folder import environment
from toolkit.runs.summary_file import write_summary
from toolkit.runtime.preprocess import Preprocess
from toolkit.training.final_evaluation import FinalEvaluation, calibrate, write_outcome
from toolkit.training.progress import parameter_counts

BATCH_SIZE = 64


def write_ready_run(
    out: Path,
    recipe: UntrainedRecipe,
    classifier: Classifier,
    processor: Any,
    data: DataSource | None,
    *,
    logits: Mapping[str, Tensor] | None = None,
    plot: Callable[[Path, Sequence[Callable[[], Image.Image]]], None] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Calibrate a classifier on validation, measure it on every split, and write its run folder, whole or not at all.

    Args:
        out: folder to be.
        recipe: what made the classifier.
        classifier: in eval mode; it is given its temperature here.
        processor: its image processor.
        data: labelled images, where there are some; the temperature stays 1 without.
        logits: of every split [images, classes], where they are known; computed from the images otherwise.
        plot: draws the plots of a run folder, given what opens each test image.
        force: replace a run that is already there.
        progress: told how it goes on.

    Returns:
        The content of ``summary.json``.

    Raises:
        ToolkitError: something else is in ``out``, an image can't be read, or the disk is full.
    """
    with staged_folder(out, what="run", marker="recipe.yaml", replace=force) as stage:
        summary: dict[str, Any] = {"temperature": float(classifier.temperature), "classes": classifier.labels}
        if data is not None:
            require_target(
                classifier.task.target, recipe.data.columns if recipe.data else ColumnsConfig(), classifier.task.name
            )
            found = logits or predict_splits(classifier, preprocess_from(processor), data, progress)
            temperature = calibrate(classifier, found["validation"], torch.from_numpy(data.labels("validation")))
            outcome = FinalEvaluation(classifier.task, data, found, temperature)
            write_outcome(stage, outcome)
            summary |= outcome.summary()
        write_bytes(stage / "recipe.yaml", recipe.as_yaml().encode())
        write_json(stage / "environment.json", environment())
        write_bytes(stage / "metrics.jsonl", b"")
        (stage / "best").mkdir()
        save_classifier(stage / "best", classifier, recipe.model.head, processor)
        parameters, _ = parameter_counts(classifier)
        summary |= {"method": recipe.method, "settings": recipe.settings, "parameters": parameters}
        write_summary(stage, summary)
        if data is not None and plot is not None:
            plot(stage, [example.picture for example in data.splits["test"]])
    return summary


@torch.inference_mode()
def predict_splits(
    classifier: Classifier, preprocess: Preprocess, data: DataSource, progress: Progress = SILENT
) -> dict[str, Tensor]:
    """Logits [images, classes] of every split, on the CPU."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    compute_fp32_fully()
    classifier.to(device)
    logits = {}
    for split, examples in data.splits.items():
        progress.stage(f"evaluating {split}")
        loader = Loader(ImageDataset(examples, preprocess), workers=0)
        keys = [(0, place) for place in range(len(examples))]
        parts = []
        for batch in loader.read(keys[start : start + BATCH_SIZE] for start in range(0, len(keys), BATCH_SIZE)):
            parts.append(classifier(batch["inputs"]["pixel_values"].to(device)).float().cpu())
            progress.done(min(len(parts) * BATCH_SIZE, len(keys)), len(keys))
        loader.close()
        logits[split] = torch.cat(parts)
    classifier.to("cpu")
    return logits
