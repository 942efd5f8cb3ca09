"""Try values of a recipe's keys, one trial after the other, on one boundary cache; the best trial is a run.

toolkit sweep digits --search training.learning_rate=1e-4..1e-2:log --trials 20 --out sweeps/digits
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.search_space import check_space, grid, in_words, read_space, with_values
from toolkit.runs.sweep_file import SWEEP, Cache, SweepFile, Trial, read_sweep, write_sweep

if TYPE_CHECKING:
    from toolkit.data.source import DataSource
    from toolkit.training.sweep_sampling import Drawn

TRIALS = 20
"""Unless told otherwise, or all of a grid."""
CACHE = "boundary_cache"
COMMON = ("recipe", "search", "sampler", "seed", "prune", "data_fingerprint")
"""What a sweep that is resumed must agree in with the one that is there."""


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
    from toolkit.training.sweep_sampling import draw

    settings = _settings(recipe, wanted)
    _refuse_if_taken(out, replace=resume or force)
    progress.stage("reading images")
    data = open_data(recipe.data, progress)
    settings = settings.model_copy(update={"data_fingerprint": data.fingerprint})
    with lock(out, what="another sweep is writing here"):
        _refuse_if_taken(out, replace=resume or force)  # somebody was faster
        state = _begun(out, settings, resume=resume)
        progress.done(len(state.trials), state.trials_wanted)
        while len(state.trials) < state.trials_wanted and (drawn := draw(state)) is not None:
            trial, cache = _run(recipe, data, out, state, drawn, progress)
            state = state.model_copy(
                update={
                    "trials": (*state.trials, trial),
                    "boundary_caches": _with_reader(state.boundary_caches, cache, trial.number),
                }
            )
            write_sweep(out, state)
            _say(trial, state)
            progress.done(len(state.trials), state.trials_wanted)
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


def _refuse_if_taken(out: Path, *, replace: bool) -> None:
    from toolkit.files import explain_os_errors, refuse_existing
    from toolkit.lock import LOCK

    with explain_os_errors(out):
        if out.is_dir() and all(child.name == LOCK for child in out.iterdir()):
            return  # what a start leaves that was killed at once
    refuse_existing(out, what="sweep", marker=SWEEP, replace=replace)


def _begun(out: Path, settings: SweepFile, *, resume: bool) -> SweepFile:
    """The sweep as it stands in its folder, where nothing else is left.

    Raises:
        ToolkitError: another one is to be resumed.
    """
    from toolkit.files import explain_os_errors, recover_interrupted_writes
    from toolkit.lock import LOCK

    with explain_os_errors(out):
        recover_interrupted_writes(out)
        if resume and (out / SWEEP).exists():
            before = read_sweep(out)
            changed = [name for name in COMMON if getattr(before, name) != getattr(settings, name)]
            if changed:
                what = f"the sweep that is here has another {' and another '.join(changed)}".replace("_", " ")
                fix = "give what it was started with, or another --out"
                raise ToolkitError(what, where=out / SWEEP, fix=fix)
            settings = before.model_copy(update={"trials_wanted": settings.trials_wanted})
        else:
            for child in out.iterdir():
                if child.name != LOCK:
                    shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        write_sweep(out, settings)
    return settings


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
    """Train a trial; return what came of it, and the folder of the boundary cache that it read."""
    from recipes.finetune import opened_trainer
    from toolkit.training.progress import console

    number, started, folder = len(sweep.trials), time.perf_counter(), None
    run = out / "trials" / f"{number:04d}"
    course = _Course(sweep, drawn, progress)
    state, why = "complete", None
    shutil.rmtree(run, ignore_errors=True)  # of a trial that was interrupted
    try:
        trial = with_values(_shared(recipe, out), drawn.params)
        course.epochs = trial.training.epochs
        with _silent(console), opened_trainer(trial, run, data=data) as trainer:
            trainer.train(course.after_epoch)
            folder = trainer.boundary.cache_folder
    except ToolkitError as error:
        if isinstance(error.__cause__, OSError):  # the next trial would meet it too
            raise
        state, why = "failed", error.as_line()
    if course.pruned:
        state, why = "pruned", course.pruned
    elif state == "complete" and course.best is None:
        state, why = "failed", f"{sweep.select_by} was defined after no epoch"
    if state != "complete":
        shutil.rmtree(run, ignore_errors=True)
    return Trial(
        number=number,
        params=drawn.params,
        state=state,  # type: ignore[arg-type]
        value=None if course.best is None else course.values[course.best - 1],
        best_epoch=course.best,
        epochs=len(course.values),
        values=tuple(course.values),
        seconds=time.perf_counter() - started,
        run=str(run.relative_to(out)) if state == "complete" else None,
        why=why,
    ), folder


@dataclass
class _Course:
    """How a trial goes on: what its epochs gave, and whether they are the last."""

    sweep: SweepFile
    drawn: Drawn
    progress: Progress
    epochs: int = 0
    """That it shall have."""
    values: list[float | None] = field(default_factory=list)
    best: int | None = None
    """The best epoch by now."""
    pruned: str | None = None
    _score: tuple[float, float] | None = None

    def after_epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        """See :data:`toolkit.training.trainer.AfterEpoch`."""
        from toolkit.metrics.split import score_by

        name, score = self.sweep.select_by, score_by(self.sweep.select_by, metrics)
        value = float(metrics[name]) if math.isfinite(score[0]) else None
        self.values.append(value)
        number, of = len(self.sweep.trials) + 1, self.sweep.trials_wanted
        self.progress.stage(f"trial {number} of {of}, epoch {epoch} of {self.epochs}")
        if value is None:
            return False
        if self._score is None or score > self._score:
            self._score, self.best = score, epoch
        if not self.drawn.is_behind(epoch, value) or epoch == self.epochs:
            return False
        best = self.values[(self.best or 1) - 1]
        self.pruned = f"{name} {best:.4g} after {epoch} epochs is worse than the median of the other trials by then"
        return True


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
    head = f"trial {trial.number + 1} of {sweep.trials_wanted}, {trial.state} after {trial.epochs} epochs"
    console.print(f"{head}: {value} ({in_words(trial.params)})", markup=False)
