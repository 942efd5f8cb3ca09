"""What a few images a class are good for: methods compared on embeddings, and the best one as a run.

toolkit few-shot --data datasets/digits --shots 1,2,4,8,16 --seeds 5 --out few-shot/digits
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.progress import SILENT, Progress
from toolkit.recipe.prompts import TEMPLATES

if TYPE_CHECKING:
    from toolkit.data.source import DataSource
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.runs.few_shot_file import FewShotFile
    from toolkit.training.few_shot.features import Features
    from toolkit.training.few_shot.method import Method
    from toolkit.training.few_shot.study import Study


@dataclass(frozen=True)
class FewShotOptions:
    """What is compared."""

    encoder: str = "tiny-clip"
    """A folder, a hub identifier, or ``tiny-clip``."""
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    """Training images a class."""
    seeds: int = 5
    """Draws of these."""
    methods: Sequence[str] = ()
    """Names of :data:`~toolkit.training.few_shot.methods.METHODS`; all that the encoder allows if empty."""
    templates: Sequence[str] = TEMPLATES
    """Prompts with ``{}`` where the class stands."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What prompts say in place of a label."""
    revision: str | None = None
    """Commit, tag or branch of a hub identifier; the newest if None."""


def few_shot(
    data: Path, out: Path, wanted: FewShotOptions, *, force: bool = False, progress: Progress = SILENT
) -> FewShotFile:
    """Write ``few_shot.json``, ``few_shot.png`` and the run ``best/`` into ``out``; return the first.

    Args:
        data: labelled images.
        out: folder to write.
        wanted: what is compared.
        force: replace what an earlier call left in ``out``.
        progress: told how it goes on.

    Raises:
        ToolkitError: more shots than the smallest class has, or a method that the encoder doesn't allow.
    """
    from toolkit.data.source import open_data
    from toolkit.files import staged_folder
    from toolkit.models.classifier import Classifier
    from toolkit.recipe.data import DataConfig
    from toolkit.recipe.model import ModelConfig
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.reporting.few_shot_plot import plot_few_shot
    from toolkit.reporting.plots import plot_run
    from toolkit.runs.few_shot_file import FEW_SHOT, write_few_shot
    from toolkit.training.few_shot.methods import METHODS, methods_named
    from toolkit.training.few_shot.shots import require_shots
    from toolkit.training.few_shot.study import run_study
    from toolkit.training.ready_run import write_ready_run

    methods_named(wanted.methods or list(METHODS))  # a mistake is said before the images are read
    started, config = time.perf_counter(), DataConfig(path=data)
    progress.stage("reading images")
    source = open_data(config, progress)
    require_shots(source, max(wanted.shots))
    methods, features = encoded(source, wanted, progress)
    seconds = {"encoding": time.perf_counter() - started}
    study = run_study(features, methods, wanted.shots, wanted.seeds, progress)
    seconds["fitting"] = time.perf_counter() - started - seconds["encoding"]
    best = study.best
    settings = {"few_shot_method": best.method.name, "shots": best.shots, "seed": best.seed} | best.fitted.chosen
    model = ModelConfig(encoder=wanted.encoder, revision=wanted.revision, unfreeze_last=0, head=best.fitted.head_config)
    recipe = UntrainedRecipe(method="few-shot", data=config, model=model, settings=settings)
    classifier = Classifier(best.fitted.encoder.cpu(), best.fitted.head.cpu(), source.classes).eval()
    content = described(features, methods, study, wanted, recipe, seconds)
    with staged_folder(out, what="few-shot study", marker=FEW_SHOT, replace=force) as stage:
        write_few_shot(stage, content)
        plot_few_shot(content.model_dump(mode="json"), stage / "few_shot.png")
        write_ready_run(
            stage / "best", recipe, classifier, features.processor, source, plot=plot_run, progress=progress
        )
    return content


def encoded(source: DataSource, wanted: FewShotOptions, progress: Progress) -> tuple[list[Method], Features]:
    """The methods, and what the encoder makes of all images up to the first group that one of them changes."""
    from toolkit.models.build import open_encoder
    from toolkit.models.zero_shot import optional_text_head
    from toolkit.recipe.model import ModelConfig
    from toolkit.training.few_shot.features import features_of
    from toolkit.training.few_shot.lora import first_changed
    from toolkit.training.few_shot.methods import allowed, methods_named

    asked = methods_named(wanted.methods) if wanted.methods else None
    encoder, processor = open_encoder(ModelConfig(encoder=wanted.encoder, revision=wanted.revision, unfreeze_last=0))
    text_head = optional_text_head(wanted.encoder, source.classes, wanted.templates, wanted.texts, wanted.revision)
    methods = asked or allowed(encoder, text_head)
    for method in methods:
        method.require(encoder, text_head)
    changed = any(method.changes_layers for method in methods)
    start = first_changed(encoder) if changed else len(encoder.groups) - (encoder.embedding == "projected")
    return methods, features_of(encoder, processor, source, text_head, start, progress)


def described(
    features: Features,
    methods: Sequence[Method],
    study: Study,
    wanted: FewShotOptions,
    recipe: UntrainedRecipe,
    seconds: dict[str, float],
) -> FewShotFile:
    """What ``few_shot.json`` says."""
    from toolkit.runs.few_shot_file import FewShotFile
    from toolkit.training.few_shot.method import accuracy

    source, text_head, zero_shot = features.data, features.text_head, None
    if text_head is not None:
        zero_shot = accuracy(text_head(features.embeddings["test"]), features.labels["test"])
    best: dict[str, Any] = {"method": study.best.method.name, "shots": study.best.shots, "seed": study.best.seed}
    return FewShotFile(
        encoder=wanted.encoder,
        data=str(recipe.data.path) if recipe.data else "",
        data_fingerprint=source.fingerprint,
        classes=source.classes,
        images={split: len(images) for split, images in source.splits.items()},
        templates=list(wanted.templates) if text_head is not None else [],
        zero_shot=zero_shot,
        methods={method.name: {"rule": method.rule, "source": method.source} for method in methods},
        results=study.results,
        best=best,
        seconds=seconds,
    )
