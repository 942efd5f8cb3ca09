"""What a sweep tries next, by Optuna: a function of its settings and of the trials that ended, and of nothing else.

So a sweep that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from toolkit.recipe.search_space import Choices, Range, Space, Value, grid, size_of
from toolkit.runs.sweep_file import SweepFile, Trial

PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 5, 2
"""Complete trials that a median is taken of at least, and epochs that no trial is pruned in."""
ATTEMPTS = 50
"""Draws of values that were tried already, before the first of the rest is taken."""


@dataclass(frozen=True)
class Drawn:
    """The values of a trial that is to run."""

    params: dict[str, Value]
    _trial: optuna.trial.Trial

    def is_behind(self, epoch: int, value: float) -> bool:
        """Take note of an epoch's metric; whether the trial's best is worse than the median of the others' by then."""
        self._trial.report(value, epoch)
        return bool(self._trial.should_prune())


def draw(sweep: SweepFile) -> Drawn | None:
    """The next trial; None where all combinations were tried."""
    tried = [trial.params for trial in sweep.trials]
    if len(tried) == size_of(sweep.search):
        return None
    study = _study_of(sweep)
    if sweep.sampler == "grid":
        study.enqueue_trial(grid(sweep.search)[len(tried)])
    for attempt in range(ATTEMPTS):
        study.sampler = _sampler(sweep, attempt)
        trial = study.ask(_distributions(sweep.search))
        if trial.params not in tried:
            return Drawn(dict(trial.params), trial)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    if size_of(sweep.search) is not None:
        study.enqueue_trial(next(each for each in _all_of(sweep.search) if each not in tried))
    trial = study.ask(_distributions(sweep.search))
    return Drawn(dict(trial.params), trial)


def _study_of(sweep: SweepFile) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS)
    study = optuna.create_study(
        direction="minimize" if sweep.smaller_is_better else "maximize",
        pruner=pruner if sweep.prune else optuna.pruners.NopPruner(),
    )
    for trial in sweep.trials:
        study.add_trial(_frozen(trial, sweep.search))
    return study


def _frozen(trial: Trial, space: Space) -> Any:
    """A trial as Optuna knows it; one that failed as pruned before its first epoch, so that TPE keeps away from it."""
    complete, failed = trial.state == "complete", trial.state == "failed"
    reported = {epoch: value for epoch, value in enumerate(trial.values, 1) if value is not None and not failed}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
        value=trial.value if complete else None,
        params=dict(trial.params),
        distributions=_distributions(space),
        intermediate_values=reported,
    )


def _distributions(space: Space) -> dict[str, Any]:
    return {key: _distribution(each) for key, each in space.items()}


def _distribution(each: Choices | Range) -> optuna.distributions.BaseDistribution:
    if isinstance(each, Choices):
        return optuna.distributions.CategoricalDistribution(each.values)
    if each.whole:
        return optuna.distributions.IntDistribution(int(each.low), int(each.high), log=each.log)
    return optuna.distributions.FloatDistribution(each.low, each.high, log=each.log)


def _sampler(sweep: SweepFile, attempt: int) -> optuna.samplers.BaseSampler:
    """With a seed of the trial's own, so that no earlier draw is needed to repeat it."""
    seed = int(np.random.SeedSequence([sweep.seed, len(sweep.trials), attempt]).generate_state(1)[0])
    if sweep.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _all_of(space: Space) -> Iterator[dict[str, Value]]:
    values = [
        each.values if isinstance(each, Choices) else range(int(each.low), int(each.high) + 1)
        for each in space.values()
    ]
    for combination in itertools.product(*values):
        yield dict(zip(space, combination, strict=True))
