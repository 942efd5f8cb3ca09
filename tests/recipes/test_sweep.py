"""Sweeps of the colours: one cache for all trials, exact resume, pruned and failed trials, and a best run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.sweep import SweepOptions, sweep
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.lock import lock
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runs.sweep_file import SweepFile, read_sweep
from toolkit.training.boundary_cache import BoundaryCache

ROOT = Path(__file__).parents[2]
SEARCH = ("training.learning_rate=1e-4..1e-2:log", "training.weight_decay=0.01,0.1")
RATES = "training.learning_rate=1e-2,8e-3,6e-3,5e-3,4e-3,1e-9,1e30"


def without_times(found: SweepFile) -> list[dict[str, Any]]:
    return [trial.model_dump(exclude={"seconds"}) for trial in found.trials]


@pytest.fixture(scope="module")
def straight(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four trials in one go."""
    out = tmp_path_factory.mktemp("sweeps") / "straight"
    sweep(make_recipe(), out, SweepOptions(SEARCH, 4))
    return out


def test_trials_share_a_cache_that_the_trunk_fills_once(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], BoundaryCache.write

    def counted(self: BoundaryCache, shard: Any, *others: Any) -> None:
        written.append(shard.name)
        write(self, shard, *others)

    monkeypatch.setattr(BoundaryCache, "write", counted)
    search = ("training.learning_rate=1e-3..1e-2", "model.head.type=linear,mlp", "training.seed=0..9")
    recipe = make_recipe(training={"mixup": 0.2, "mix_at": "boundary"})
    found = sweep(recipe, tmp_path / "sweep", SweepOptions(search, 4))
    assert [trial.state for trial in found.trials] == ["complete"] * 4
    (cache,) = found.boundary_caches
    assert cache.trials == (1, 2, 3, 4)
    assert sorted(written) == ["train-view000-00000000.safetensors", "validation-view000-00000000.safetensors"]
    assert not (tmp_path / "sweep" / "boundary_cache").exists()


@pytest.mark.slow
def test_trials_that_learn_more_layers_have_a_cache_of_their_own(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    recipe = make_recipe(training={"boundary_cache": {"enabled": True, "dir": str(kept)}})
    options = SweepOptions(("model.unfreeze_last=0,1", "training.learning_rate=1e-3,1e-2"), sampler="grid")
    found = sweep(recipe, tmp_path / "sweep", options)
    assert [cache.trials for cache in found.boundary_caches] == [(1, 2), (3, 4)]
    assert sorted(path.name for path in kept.iterdir()) == sorted(cache.key for cache in found.boundary_caches)


def test_the_best_trial_is_a_run_and_alone_knows_the_test_split(straight: Path) -> None:
    found = read_sweep(straight)
    best = found.trials[(found.best or 1) - 1]
    assert best.value == max(trial.value or 0 for trial in found.trials)
    run = Run(straight / "best")
    assert run.summary["validation"]["accuracy"] == pytest.approx(best.value)
    assert 0 <= run.summary["test"]["accuracy"] <= 1
    assert isinstance(run.recipe, Recipe)
    assert run.recipe.training.learning_rate == best.params["training.learning_rate"]
    assert run.recipe.training.weight_decay == best.params["training.weight_decay"]
    others = [straight / str(trial.run) for trial in found.trials if trial != best]
    assert [path for path in others if (path / "summary.json").exists()] == []
    assert (straight / "sweep.png").stat().st_size > 10_000


def test_the_best_run_is_exported_and_proven(straight: Path, tmp_path: Path) -> None:
    from toolkit.api import export
    from toolkit.runtime.verify import verify

    export(straight / "best", out=tmp_path / "bundle")
    assert verify(tmp_path / "bundle")["passed"]


def test_another_trial_can_be_given_its_end(straight: Path, tmp_path: Path) -> None:
    import shutil

    from recipes.finetune import finetune
    from toolkit.recipe.reading import load_recipe

    found = read_sweep(straight)
    other = next(trial for trial in found.trials if trial.number != found.best)
    run = Path(shutil.copytree(straight / str(other.run), tmp_path / "run"))
    finetune(load_recipe(run / "recipe.yaml"), run, resume=True)
    assert Run(run).summary["validation"]["accuracy"] == pytest.approx(other.value)


def test_a_killed_sweep_keeps_what_ended_and_runs_the_rest(
    straight: Path,
    make_recipe: Callable[..., Recipe],
    in_process: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.yaml").write_text(make_recipe().as_yaml().replace("enabled: false", "enabled: auto"))
    out = tmp_path / "sweep"
    arguments = ["sweep", str(tmp_path / "recipe.yaml"), "--trials", "4"]
    arguments += ["--out", str(out), "--json", *(part for each in SEARCH for part in ("--search", each))]
    command = [sys.executable, "-m", "toolkit", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (out / "trials" / "0002" / "recipe.yaml").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = read_sweep(out)
    assert 1 <= len(left.trials) < 4
    kept = (out / "trials" / "0001" / "recipe.yaml").stat().st_mtime_ns
    done = in_process(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    found = read_sweep(out)
    assert found.trials[: len(left.trials)] == left.trials
    assert without_times(found) == without_times(read_sweep(straight))
    assert found.best == read_sweep(straight).best
    assert (out / "trials" / "0001" / "recipe.yaml").stat().st_mtime_ns == kept
    printed = json.loads(done.stdout)
    assert printed.pop("out") == str(out)
    assert SweepFile.model_validate(printed) == found


def test_pruned_and_failed_trials_are_recorded_and_the_sweep_goes_on(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"epochs": 3, "select_by": "loss"})
    found = sweep(recipe, tmp_path / "sweep", SweepOptions((RATES,), sampler="grid"))
    assert [trial.state for trial in found.trials] == ["complete"] * 5 + ["pruned", "failed"]
    pruned, failed = found.trials[5:]
    assert (pruned.epochs, pruned.run) == (2, None)
    assert "worse than the median" in str(pruned.why)
    assert failed.run is None
    assert "learning_rate" in str(failed.why)
    values = [trial.value for trial in found.trials[:5]]
    assert found.best == values.index(min(value for value in values if value is not None)) + 1
    assert sorted(path.name for path in (tmp_path / "sweep" / "trials").iterdir()) == [f"000{n}" for n in range(1, 6)]


def test_where_every_trial_fails_the_verdict_says_why(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    options = SweepOptions(("training.learning_rate=1e30,1e31",), sampler="grid")
    with pytest.raises(CheckFailed, match=r"none of 2 trials gave a classifier.*learning_rate=1e\+30"):
        sweep(make_recipe(), tmp_path / "sweep", options)
    found = read_sweep(tmp_path / "sweep")
    assert ([trial.state for trial in found.trials], found.best) == (["failed", "failed"], None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SweepOptions(("training.epochs=0,1",)), "training.epochs=0"),
        (SweepOptions(("training.epochs=1,2",), trials=0), "--trials"),
        (SweepOptions(("training.epochs=1,2",), seed=-1), "--seed"),
        (SweepOptions(("training.epochs=1..2",), sampler="grid"), "--sampler grid"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(
    options: SweepOptions, says: str, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError) as caught:
        sweep(make_recipe(), tmp_path / "sweep", options)
    assert says in caught.value.as_line()
    assert list(tmp_path.iterdir()) == []


def test_what_no_trial_can_begin_with_is_said_at_once_and_leaves_the_folder_free(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    options = SweepOptions(("model.unfreeze_last=9,1",), sampler="grid")
    for _ in range(2):
        with pytest.raises(ToolkitError, match="9 layers") as caught:
            sweep(make_recipe(), tmp_path / "sweep", options)
        assert "in the first trial: model.unfreeze_last=9" in caught.value.where
    later = SweepOptions(("model.unfreeze_last=1,9",), sampler="grid")
    found = sweep(make_recipe(), tmp_path / "sweep", later)
    assert [trial.state for trial in found.trials] == ["complete", "failed"]
    assert "9 layers" in str(found.trials[1].why)


def test_a_folder_that_is_taken_is_refused(straight: Path, make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="a sweep is there already"):
        sweep(make_recipe(), straight, SweepOptions(SEARCH, 4))
    with pytest.raises(ToolkitError, match="another search"):
        sweep(make_recipe(), straight, SweepOptions(SEARCH[:1], 4), resume=True)
    with pytest.raises(ToolkitError, match="another recipe and another seed"):
        sweep(make_recipe(training={"epochs": 3}), straight, SweepOptions(SEARCH, 4, seed=1), resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ToolkitError, match="no sweep"):
        sweep(make_recipe(), tmp_path, SweepOptions(SEARCH, 4), force=True)


def test_two_sweeps_do_not_share_a_folder(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from toolkit.lock import lock\n"
            "with lock(Path(sys.argv[1]), what='x'):\n    print('held', flush=True); sys.stdin.read()",
            str(tmp_path / "sweep"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ToolkitError, match="another sweep is writing here already"):
        sweep(make_recipe(), tmp_path / "sweep", SweepOptions(SEARCH, 1))
    holder.communicate()
    with lock(tmp_path / "sweep", what="x"):
        pass


def test_without_optuna_the_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['optuna'] = None; sys.argv = ['toolkit', *sys.argv[1:]]\n"
        "from importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'optuna' else found(name, *rest)\n"
        "from toolkit.cli.main import main; main()"
    )
    command = ["sweep", "digits", "--search", "training.epochs=1,2", "--out", str(tmp_path / "sweep")]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == ('error: optuna is not installed (at toolkit sweep); pip install "clip-toolkit[sweep]"\n')
