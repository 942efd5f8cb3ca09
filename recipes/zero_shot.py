"""A classifier from the names of its classes, without training: the head is the text embeddings of prompts.

toolkit zero-shot --encoder tiny-clip --labels "red circle,blue square" --out runs/shapes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.progress import SILENT, Progress


def zero_shot(
    encoder: str,
    labels: Sequence[str],
    out: Path,
    *,
    revision: str | None = None,
    templates: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    data: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the run folder ``out`` of a classifier of labels; return its summary.

    Args:
        encoder: with a text tower: a folder, a hub identifier, or ``tiny-clip``.
        labels: the classes; those of ``data`` if empty.
        out: run folder to write.
        templates: prompts with ``{}`` where the class stands; those of :mod:`toolkit.recipe.prompts` unless given.
        texts: what prompts say in place of a label.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: an encoder without texts, labels that differ from the data's, a prompt that is too long.
    """
    from toolkit.data.source import open_data
    from toolkit.models.build import build_classifier
    from toolkit.models.zero_shot import zero_shot_task
    from toolkit.recipe.data import DataConfig
    from toolkit.recipe.model import HeadConfig, ModelConfig
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.reporting.plots import plot_run
    from toolkit.training.ready_run import write_ready_run

    source = None
    if data is not None:
        config = DataConfig(path=data, classes=list(labels) or None)
        progress.stage("reading images")
        source = open_data(config, progress)
    classes = source.classes if source else list(labels)
    head = HeadConfig(
        type="cosine",
        init="text",
        templates=list(templates) if templates else None,
        texts=dict(texts or {}),
    )
    model = ModelConfig(
        encoder=encoder, revision=revision, task=zero_shot_task(encoder, revision), unfreeze_last=0, head=head
    )
    classifier, processor = build_classifier(model, classes, seed=0, value_range=source.value_range if source else None)
    recipe = UntrainedRecipe(method="zero-shot", data=config if source else None, model=model)
    return write_ready_run(
        out, recipe, classifier.eval(), processor, source, plot=plot_run, force=force, progress=progress
    )
