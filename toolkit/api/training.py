"""Functions that make runs: from a recipe, from names, from a few images, from other classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.api.opening import path_of
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.recipe.recipe import Recipe
    from toolkit.runs.few_shot_file import FewShotFile
    from toolkit.runs.finished_run import Run
    from toolkit.runs.sweep_file import SweepFile


def finetune(
    recipe: Recipe | Path | str,
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Fine-tune by a recipe, in this process.

    Args:
        recipe: a recipe, the file of one, or the name of one that is shipped (``digits``).
        out: run folder to write.
        overrides: ``section.key=value`` for a recipe that is read from a file.
        resume: go on from the newest checkpoint in ``out``.
        force: remove the run that is in ``out`` already.

    Returns:
        The finished run; its ``summary`` holds the metrics.

    Raises:
        ToolkitError: a mistake in the recipe, its data or its encoder.

    Example:
        >>> run = toolkit.finetune("digits", out=out, overrides=[f"data.path={data}", "training.epochs=1"])
        >>> 0 <= run.summary["test"]["accuracy"] <= 1
        True
    """
    from toolkit.recipe.origins import naming_origins
    from toolkit.recipe.reading import leaves

    loaded, path = _recipe_of(recipe, overrides)
    with naming_origins(path, overrides, leaves(loaded)) if path else nullcontext():
        return _finetuned(loaded, Path(out), resume=resume, force=force)


def _recipe_of(recipe: Recipe | Path | str, overrides: Sequence[str]) -> tuple[Recipe, Path | None]:
    """A recipe, and the file that it was read from; None of one in memory.

    Raises:
        ToolkitError: overrides of a recipe in memory, or a mistake in the file.
    """
    from toolkit.recipe.reading import load_recipe
    from toolkit.recipe.recipe import Recipe
    from toolkit.recipe.shipped import find_recipe

    if isinstance(recipe, Recipe):
        if overrides:
            fix = "change the recipe itself, or give the file of one"
            raise ToolkitError("a recipe in memory takes no overrides", where="overrides", fix=fix)
        return recipe, None
    path = find_recipe(recipe)
    return load_recipe(path, overrides), path


def _finetuned(recipe: Recipe, out: Path, *, resume: bool, force: bool) -> Run:
    from recipes.finetune import finetune as train
    from toolkit.runs.finished_run import Run

    train(recipe, out, resume=resume, force=force)
    return Run(out)


def sweep(
    recipe: Recipe | Path | str,
    search: Sequence[str],
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    seed: int = 0,
    prune: bool = True,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> SweepFile:
    """Try values of a recipe's keys, one trial after the other, on one boundary cache; the best is a run, ``out/best``.

    Trials are compared by ``training.select_by`` on validation; the test split is measured for the best one alone.

    Args:
        recipe: what all trials have in common: a recipe, the file of one, or the name of one that is shipped.
        search: what is tried, ``key=a,b,c`` or ``key=low..high[:log]``.
        out: folder to write.
        overrides: ``section.key=value`` for a recipe that is read from a file.
        trials: how many, those included that ended before; 20, or all of a grid, if None.
        sampler: ``tpe`` looks where earlier trials were good, ``random`` anywhere, ``grid`` at all combinations.
        seed: of the sampler; with the same one the same trials run. That of the trials is ``training.seed``.
        prune: end trials early whose best epoch is worse than the median of the others' by then.
        resume: go on with the sweep that is in ``out``.
        force: replace the sweep that is in ``out``.
        progress: told how it goes on.

    Returns:
        What ``sweep.json`` holds: every trial with its values, metric, time and run folder.

    Raises:
        ToolkitError: no such keys or values, or another search in ``out``.
        CheckFailed: no trial gave a classifier.

    Example:
        >>> lowest = ["training.epochs=1", "model.unfreeze_last=0"]
        >>> search = ["training.learning_rate=1e-4,1e-2"]
        >>> found = toolkit.sweep("digits", search, out=out, overrides=[f"data.path={data}", *lowest], trials=2)
        >>> [trial.state for trial in found.trials]
        ['complete', 'complete']
    """
    from toolkit.publishing.checked import require_library
    from toolkit.recipe.origins import naming_origins
    from toolkit.recipe.reading import leaves

    require_library("optuna", "sweep", "toolkit sweep")
    from recipes.sweep import SweepOptions
    from recipes.sweep import sweep as run_sweep

    loaded, path = _recipe_of(recipe, overrides)
    wanted = SweepOptions(search, trials, sampler, seed, prune)
    with naming_origins(path, overrides, leaves(loaded)) if path else nullcontext():
        return run_sweep(loaded, Path(out), wanted, resume=resume, force=force, progress=progress)


def zero_shot(
    encoder: str,
    labels: Sequence[str] = (),
    *,
    out: Path | str,
    revision: str | None = None,
    templates: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    data: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Make a run from the names of its classes: the head is the text embeddings of prompts, nothing is trained.

    Args:
        encoder: with a text tower: a folder, a hub identifier, or ``tiny-clip``.
        labels: the classes; those of ``data`` if empty.
        out: run folder to write.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        templates: prompts with ``{}`` where the class stands, whose embeddings are averaged.
        texts: what prompts say in place of a label.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: an encoder without texts, labels that differ from the data's, a prompt that is too long.

    Example:
        >>> run = toolkit.zero_shot("tiny-clip", ["red circle", "blue square"], out=out)
        >>> run.classifier.labels
        ['red circle', 'blue square']
    """
    from recipes.zero_shot import zero_shot as make
    from toolkit.runs.finished_run import Run

    make(
        encoder,
        labels,
        Path(out),
        revision=revision,
        templates=templates,
        texts=texts,
        data=path_of(data),
        force=force,
        progress=progress,
    )
    return Run(Path(out))


def few_shot(
    data: Path | str,
    *,
    out: Path | str,
    encoder: str = "tiny-clip",
    revision: str | None = None,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: int = 5,
    methods: Sequence[str] = (),
    templates: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> FewShotFile:
    """Compare methods that learn from a few images a class; the best one's run lies in ``out/best``.

    Args:
        data: labelled images in any format.
        out: folder to write.
        encoder: a folder, a hub identifier, or ``tiny-clip``.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        shots: training images a class.
        seeds: draws of these.
        methods: of ``linear-probe``, ``text-cosine``, ``tip-adapter``, ``tip-adapter-f``, ``prolip`` and ``lora``; all
            that the encoder allows if empty.
        templates: prompts with ``{}`` where the class stands.
        texts: what prompts say in place of a label.
        force: replace what an earlier call left in ``out``.
        progress: told how it goes on.

    Raises:
        ToolkitError: more shots than the smallest class has, or a method that the encoder doesn't allow.

    Example:
        >>> found = toolkit.few_shot(images, out=out, shots=[2], seeds=2, methods=["linear-probe"])
        >>> 0 <= found.results[0].accuracy <= 1
        True
    """
    from recipes.few_shot import FewShotOptions
    from recipes.few_shot import few_shot as compare
    from toolkit.recipe.prompts import TEMPLATES

    wanted = FewShotOptions(encoder, shots, seeds, methods, templates or TEMPLATES, texts or {}, revision)
    return compare(Path(data), Path(out), wanted, force=force, progress=progress)


def import_classifier(
    checkpoint: Path | str,
    *,
    out: Path | str,
    revision: str | None = None,
    data: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Make a run from a classifier that one of transformers' ``...ForImageClassification`` saved.

    Args:
        checkpoint: a folder or a hub identifier.
        out: run folder to write.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: a checkpoint that is no classifier of a known family, or labels that differ from the data's.

    Example:
        >>> run = toolkit.import_classifier(checkpoint, out=out)
        >>> run.classifier.labels
        ['cat', 'dog']
    """
    from recipes.import_classifier import import_classifier as make
    from toolkit.runs.finished_run import Run

    make(str(checkpoint), Path(out), revision=revision, data=path_of(data), force=force, progress=progress)
    return Run(Path(out))
