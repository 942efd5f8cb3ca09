"""Try values of a recipe's keys, one trial after the other, on one boundary cache; the best trial is a run.

toolkit sweep digits --search training.learning_rate=1e-4..1e-2:log --trials 20 --out sweeps/digits
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.search_space import check_space, grid, in_words, read_space, with_values
from toolkit.runs.sweep_file import SWEEP, Cache, SweepFile, Trial, read_sweep, write_sweep
from toolkit.runs.sweep_folder import begin, clear, refuse_if_taken

if TYPE_CHECKING:
    from toolkit.data.source import DataSource
    from toolkit.training.sweep_sampling import Drawn

TRIALS = 20
"""Unless told otherwise, or all of a grid."""
SAMPLERS = ("tpe", "random", "grid")
CACHE = "boundary_cache"


@dataclass(frozen=True)
class SweepOptions:
    """What is tried."""

    search: Sequence[str]
    """``key=a,b,c`` or ``key=low..high[:log]``."""
    trials: int | None = None
    """:data:`TRIALS`, or all of a grid, if None."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seed: int = 0
    """Of the sampler; the trials' own is ``training.seed``."""
    prune: bool = True
    """Whether a trial ends where its best epoch is worse than the median of the others' by then."""


def sweep(
    recipe: Recipe,
    out: Path,
    wanted: SweepOptions,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> SweepFile:
    """Write ``sweep.json``, ``sweep.png``, a run folder a complete trial and the run ``best/`` into ``out``.

    Trials are compared on validation; the test split is measured for the best one alone, at the end.

    Args:
        recipe: what all trials have in common.
        out: folder to write.
        wanted: what is tried.
        resume: go on with the sweep that is in ``out``: trials that ended stay, one that was interrupted runs anew.
        force: replace the sweep that is in ``out``.
        progress: told how it goes on.

    Raises:
        ToolkitError: no such keys or values, other data or another search than the sweep had, or a disk that fails.
        CheckFailed: no trial gave a classifier.
        Stopped: after Ctrl-C or SIGTERM.
    """
    from toolkit.data.source import open_data
    from toolkit.lock import lock
    from toolkit.reporting.sweep_plot import plot_sweep

    settings = _settings(recipe, wanted)
    refuse_if_taken(out, replace=resume or force)
    progress.stage("reading images")
    data = open_data(recipe.data, progress)
    settings = settings.model_copy(update={"data_fingerprint": data.fingerprint})
    with lock(out, what="another sweep is writing here"):
        refuse_if_taken(out, replace=resume or force)  # somebody was faster
        state = begin(out, settings, resume=resume)
        progress.done(len(state.trials), state.trials_wanted)
        try:
            state = _with_all_trials(recipe, data, out, state, progress)
        except ToolkitError:
            if not read_sweep(out).trials:
                clear(out)  # so that the mended command finds the folder free
            raise
        shutil.rmtree(out / CACHE, ignore_errors=True)
        leader = state.leader
        if leader is None:
            first = state.trials[0]
            what = f"none of {len(state.trials)} trials gave a classifier; the first ({in_words(first.params)}): "
            raise CheckFailed(f"{what}{first.why}; see {out / SWEEP}")
        progress.stage("measuring the best")
        if state.best != leader.number or not (out / "best").is_dir():
            _become_best(out, leader)
            state = state.model_copy(update={"best": leader.number})
            write_sweep(out, state)
        plot_sweep(state.model_dump(mode="json"), out / "sweep.png")
    return state


def _with_all_trials(recipe: Recipe, data: DataSource, out: Path, state: SweepFile, progress: Progress) -> SweepFile:
    """The sweep after its last trial, each of them written down when it ended."""
    from toolkit.training.sweep_sampling import draw

    while len(state.trials) < state.trials_wanted and (drawn := draw(state)) is not None:
        trial, cache = _run(recipe, data, out, state, drawn, progress)
        caches = _with_reader(state.boundary_caches, cache, trial.number)
        state = state.model_copy(update={"trials": (*state.trials, trial), "boundary_caches": caches})
        write_sweep(out, state)
        _say(trial, state)
        progress.done(len(state.trials), state.trials_wanted)
    return state


def _settings(recipe: Recipe, wanted: SweepOptions) -> SweepFile:
    """The sweep before its first trial, all that can be said of it without data checked.

    Raises:
        ToolkitError: a mistake in it.
    """
    from toolkit.metrics.split import SMALLER_IS_BETTER
    from toolkit.tasks.registry import task_named
    from toolkit.training.setup import check_task

    if os.environ.get("WORLD_SIZE", "1") != "1":
        fix = "start it without a launcher; trials run one after the other"
        raise ToolkitError("a sweep runs in one process", where="toolkit sweep", fix=fix)
    space, metric, trials = read_space(wanted.search), recipe.training.select_by, wanted.trials
    if trials is not None and trials < 1:
        raise ToolkitError(f"{trials} trials are none", where="--trials", fix="give a number from 1")
    if wanted.seed < 0:
        raise ToolkitError(f"{wanted.seed} is no seed", where="--seed", fix="give a number from 0")
    if wanted.sampler not in SAMPLERS:
        raise ToolkitError(f"no sampler {wanted.sampler!r}", where="--sampler", fix=f"choose {', '.join(SAMPLERS)}")
    if wanted.sampler == "grid":
        trials = min(trials or math.inf, len(grid(space)))  # type: ignore[assignment]
    check_space(recipe, space)
    task_named(check_task(recipe).model.task, "model.task").check_metric(metric)
    return SweepFile(
        recipe=recipe.model_dump(mode="json"),
        search=space,
        sampler=wanted.sampler,
        seed=wanted.seed,
        prune=wanted.prune,
        select_by=metric,
        smaller_is_better=metric in SMALLER_IS_BETTER,
        data_fingerprint="",
        trials_wanted=trials or TRIALS,
    )


def _shared(recipe: Recipe, out: Path) -> Recipe:
    """The recipe with a boundary cache that other trials find; on wherever the run stays the same, unless it says."""
    cache = recipe.training.boundary_cache
    changes = {} if "enabled" in cache.model_fields_set else {"enabled": "auto"}
    changes |= {} if cache.dir else {"dir": (out / CACHE).absolute()}  # type: ignore[dict-item]
    training = recipe.training.model_copy(update={"boundary_cache": cache.model_copy(update=changes)})
    return recipe.model_copy(update={"training": training})


def _run(
    recipe: Recipe, data: DataSource, out: Path, sweep: SweepFile, drawn: Drawn, progress: Progress
) -> tuple[Trial, Path | None]:
    """Train a trial; return what came of it, and the folder of the boundary cache that it read.

    Raises:
        ToolkitError: the disk is full, or the first trial can't even begin, as then no other can.
    """
    from recipes.finetune import opened_trainer
    from toolkit.files import NO_ROOM
    from toolkit.training.progress import console
    from toolkit.training.sweep_course import Course

    number, started, begun, folder = len(sweep.trials) + 1, time.perf_counter(), False, None
    run = out / "trials" / f"{number:04d}"
    state, why = "complete", None
    shutil.rmtree(run, ignore_errors=True)  # of a trial that was interrupted
    course = Course(sweep, drawn, progress)
    try:
        trial = with_values(_shared(recipe, out), drawn.params)
        course.epochs = trial.training.epochs
        with _silent(console), opened_trainer(trial, run, data=data) as trainer:
            begun = True
            trainer.train(course.after_epoch)
            folder = trainer.boundary.cache_folder
    except ToolkitError as error:
        if getattr(error.__cause__, "errno", None) in NO_ROOM:  # the next trial would meet it too
            raise
        if number == 1 and not begun:
            where = f"{error.where}, in the first trial: {in_words(drawn.params)}"
            raise ToolkitError(error.what, where=where, fix=error.fix) from error
        state, why = "failed", error.as_line()
    gc.collect()  # trainer and scheduler hold each other, and the device's memory with them
    if course.pruned:
        state, why = "pruned", course.pruned
    elif state == "complete" and course.value is None:
        state, why = "failed", f"{sweep.select_by} was defined after no epoch"
    if state != "complete":
        shutil.rmtree(run, ignore_errors=True)
    return Trial(
        number=number,
        params=drawn.params,
        state=state,  # type: ignore[arg-type]
        value=course.value,
        best_epoch=course.best_epoch,
        epochs=len(course.values),
        values=tuple(course.values),
        seconds=time.perf_counter() - started,
        run=str(run.relative_to(out)) if state == "complete" else None,
        why=why,
    ), folder


@contextmanager
def _silent(console: object) -> Iterator[None]:
    """What a run says is left out: a sweep has a line a trial."""
    console.quiet = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        console.quiet = False  # type: ignore[attr-defined]


def _with_reader(caches: tuple[Cache, ...], folder: Path | None, number: int) -> tuple[Cache, ...]:
    """The caches, one of them read by one more trial."""
    if folder is None:
        return caches
    known = {cache.key: cache for cache in caches}
    size = sum(path.stat().st_size for path in folder.glob("rank-*/*"))
    before = known[folder.name].trials if folder.name in known else ()
    known[folder.name] = Cache(key=folder.name, trials=(*before, number), bytes=size)
    return tuple(known.values())


def _become_best(out: Path, leader: Trial) -> None:
    """Give a trial's run its end, by which the test split is measured, and copy it to ``best/``."""
    from recipes.finetune import finetune
    from toolkit.files import staged_folder
    from toolkit.lock import LOCK
    from toolkit.recipe.reading import load_recipe
    from toolkit.training.progress import console

    run = out / str(leader.run)
    with _silent(console):
        finetune(load_recipe(run / "recipe.yaml"), run, resume=True)
    with staged_folder(out / "best", what="run", marker="recipe.yaml", replace=True) as stage:
        shutil.copytree(run, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))


def _say(trial: Trial, sweep: SweepFile) -> None:
    """A line where no terminal shows a bar."""
    from toolkit.training.progress import console

    if console.is_terminal:
        return
    value = f"{sweep.select_by} {trial.value:.4f}" if trial.value is not None else trial.why
    head = f"trial {trial.number} of {sweep.trials_wanted}, {trial.state} after {trial.epochs} epochs"
    console.print(f"{head}: {value} ({in_words(trial.params)})", markup=False)
