"""A run from a classifier that was trained elsewhere, by one of transformers' ``...ForImageClassification``.

toolkit import FOLDER --out runs/imported
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.progress import SILENT, Progress


def import_classifier(
    checkpoint: str,
    out: Path,
    *,
    revision: str | None = None,
    data: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the run folder ``out`` of a checkpoint; return its summary.

    Args:
        checkpoint: a folder or a hub identifier.
        out: run folder to write.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: a checkpoint that is no classifier of a known family, or labels that differ from the data's.
    """
    from toolkit.data.source import open_data
    from toolkit.models.imported import import_classifier as load
    from toolkit.recipe.data import DataConfig
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.reporting.plots import plot_run
    from toolkit.training.ready_run import write_ready_run

    progress.stage("loading the checkpoint")
    found = load(checkpoint, revision)
    config, source = None, None
    if data is not None:
        config = DataConfig(path=data, classes=found.classifier.labels)
        progress.stage("reading images")
        source = open_data(config, progress)
        found.processor.value_range = source.value_range
    settings = {"architecture": found.architecture, "largest_logit_difference": found.largest_difference}
    recipe = UntrainedRecipe(method="import", data=config, model=found.model, settings=settings)
    return write_ready_run(
        out, recipe, found.classifier, found.processor, source, plot=plot_run, force=force, progress=progress
    )
