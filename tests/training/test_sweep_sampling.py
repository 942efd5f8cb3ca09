"""What a sweep tries next follows from its settings and the trials that ended."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from toolkit.recipe.search_space import in_words, read_space
from toolkit.runs.sweep_file import SweepFile, Trial
from toolkit.training.sweep_sampling import draw

RATES = "training.learning_rate=1e-5..1e-1:log"


def sweep_of(*search: str, sampler: Literal["tpe", "random", "grid"] = "tpe", **settings: Any) -> SweepFile:
    return SweepFile(
        **{"recipe": {}, "seed": 0, "prune": True, "select_by": "accuracy", "smaller_is_better": False}
        | {"data_fingerprint": "", "trials_wanted": 100, "search": read_space(search), "sampler": sampler}
        | settings
    )


def ended(sweep: SweepFile, params: dict[str, Any], *values: float, state: Any = "complete") -> SweepFile:
    best = max(values, default=None)
    trial = Trial(
        number=len(sweep.trials) + 1,
        params=params,
        state=state,
        value=best,
        best_epoch=values.index(best) + 1 if best is not None else None,
        epochs=len(values),
        values=values,
        seconds=1.0,
        run=None,
        why=None,
    )
    return sweep.model_copy(update={"trials": (*sweep.trials, trial)})


def played(sweep: SweepFile, trials: int) -> SweepFile:
    """Trials whose metric is the better the nearer the learning rate is to 1e-3."""
    for _ in range(trials):
        drawn = draw(sweep)
        assert drawn is not None
        rate = float(drawn.params["training.learning_rate"])  # type: ignore[arg-type]
        off = max(rate / 1e-3, 1e-3 / rate)
        state = "pruned" if off > 50 else "failed" if off > 20 else "complete"
        sweep = ended(sweep, drawn.params, *([] if state == "failed" else [0.5 / off, 1 / off]), state=state)
    return sweep


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_seed_gives_the_same_trials_whenever_they_are_drawn(sampler: Any) -> None:
    first = played(sweep_of(RATES, sampler=sampler), 14)
    stored = SweepFile.model_validate_json(first.model_copy(update={"trials": first.trials[:9]}).model_dump_json())
    assert played(stored, 5) == first
    other = played(sweep_of(RATES, sampler=sampler, seed=1), 3)
    assert [trial.params for trial in other.trials] != [trial.params for trial in first.trials[:3]]


def test_tpe_looks_where_trials_were_good() -> None:
    """Of rates from 1e-5 to 1e-1 a quarter lie near the best one, so 7 or 8 of 30 would at random."""
    late = played(sweep_of(RATES), 50).trials[20:]
    assert sum(3e-4 < float(str(trial.params["training.learning_rate"])) < 3e-3 for trial in late) > 15


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_combination_runs_twice_and_all_do_in_the_end(sampler: Any) -> None:
    sweep = sweep_of("training.batch_size=8,16,32", "training.compile=true,false", sampler=sampler)
    for _ in range(6):
        drawn = draw(sweep)
        assert drawn is not None
        sweep = ended(sweep, drawn.params, 0.5)
    assert len({in_words(trial.params) for trial in sweep.trials}) == 6
    assert draw(sweep) is None


@pytest.mark.parametrize(("smaller", "behind"), [(False, 0.1), (True, 0.9)])
def test_a_trial_is_pruned_where_it_is_behind_the_median(smaller: bool, behind: float) -> None:
    sweep = sweep_of(RATES, smaller_is_better=smaller)
    for number in range(4):
        sweep = ended(sweep, {"training.learning_rate": 1e-3 + number / 1e4}, 0.5, 0.5, 0.5)
    drawn = draw(sweep)
    assert drawn is not None
    assert [drawn.is_behind(epoch, behind) for epoch in (1, 2, 3)] == [False] * 3  # of four there is no median yet
    sweep = ended(sweep, {"training.learning_rate": 2e-3}, 0.5, 0.5, 0.5)
    drawn, other = draw(sweep), draw(sweep.model_copy(update={"prune": False}))
    assert drawn is not None
    assert other is not None
    assert drawn.params == other.params
    assert [drawn.is_behind(epoch, behind) for epoch in (1, 2)] == [False, True]
    assert [other.is_behind(epoch, behind) for epoch in (1, 2)] == [False, False]
    ahead = draw(sweep)
    assert ahead is not None
    assert [ahead.is_behind(epoch, 1 - behind) for epoch in (1, 2, 3)] == [False] * 3
