"""A run that was stopped and resumed is the run that never was: weights, moments, metrics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted_runs import EVERY_STEP, cut_back, outcome_of
from safetensors.torch import load_file

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.lock import lock
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import BoundaryCacheConfig
from toolkit.training.checkpoints import checkpoints_in, read_checkpoint

ROOT = Path(__file__).parents[2]
FINISHED = {"trackers": ["tensorboard"], "plots": True}
"""How the finished run is tracked."""
SOME, OTHERS = (lambda steps: (0, steps // 2)), (lambda steps: (1, steps - 1, steps))
"""After which of the steps a run was stopped."""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize("stops", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"])
@pytest.mark.parametrize(
    ("model", "training", "data"),
    [
        ({"unfreeze_last": 1}, {"gradient_accumulation": 2}, {"augment": ["crop", "flip_horizontal"]}),
        ({"unfreeze_last": 2}, {"scheduler": "step", "step_epochs": 2, "boundary_cache": {"enabled": True}}, {}),
        ({"unfreeze_last": 0}, {"boundary_cache": {"enabled": True, "views": 2}}, {"augment": ["crop"]}),
    ],
    ids=["accumulated", "cached", "head-and-views"],
)
def test_a_run_resumed_after_any_step_equals_the_straight_one(
    model: dict[str, Any],
    training: dict[str, Any],
    data: dict[str, Any],
    stops: Callable[[int], tuple[int, ...]],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    training = {"epochs": 3, "batch_size": 5} | EVERY_STEP | training
    recipe = make_recipe(model=model, training=training, data=data)
    steps = finetune(recipe, tmp_path / "straight")["steps"]
    for step in stops(steps):
        cut_back(tmp_path / "straight", step, tmp_path / f"cut-{step}")
        finetune(recipe, tmp_path / f"cut-{step}", resume=True)
        assert outcome_of(tmp_path / f"cut-{step}") == outcome_of(tmp_path / "straight"), step


def write_recipe(recipe: Recipe, path: Path) -> Path:
    path.write_text(recipe.as_yaml())
    return path


def start(config: Path, out: Path, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Launch the recipe on one core, so that one process and two have a thread each, in a process group of its own."""
    command = [*launcher, str(ROOT / "recipes" / "finetune.py"), "--config", str(config), "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    return process


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    wait_for((run / "checkpoints" / f"step-{step:08d}").exists, process)


def finish(config: Path, run: Path, *options: str, launcher: tuple[str, ...] = ()) -> str:
    """Launch the recipe and wait for its good end; what it said."""
    process = start(config, run, *options, launcher=launcher)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stderr


@pytest.fixture(scope="module")
def long_recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    """Twenty epochs of three steps of two micro-batches, which last a few seconds."""
    training = {"epochs": 20, "batch_size": 6, "gradient_accumulation": 2} | EVERY_STEP
    return make_recipe(training=training, data={"augment": ["crop"]})


@pytest.fixture(scope="module")
def straight(long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the long recipe gives in one process that nobody stops."""
    folder = tmp_path_factory.mktemp("straight")
    finish(write_recipe(long_recipe, folder / "recipe.yaml"), folder / "run")
    return outcome_of(folder / "run")


@pytest.fixture(scope="module")
def unhurried(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """Four epochs of 36 steps that write a checkpoint at their ends alone, and the run that nobody stopped."""
    training = {"epochs": 4, "batch_size": 1, "keep_last": 1}
    recipe = make_recipe(training=training, data={"augment": ["crop"]}, tracking={"log_every": 1})
    folder = tmp_path_factory.mktemp("unhurried")
    finish(write_recipe(recipe, folder / "recipe.yaml"), folder / "run")
    return recipe, folder / "run"


@pytest.mark.parametrize(
    ("number", "workers", "whole_group"),
    [pytest.param(signal.SIGINT, 0, False, marks=pytest.mark.slow), (signal.SIGTERM, 1, True)],
)
def test_a_signal_writes_a_checkpoint_at_the_next_step_and_says_how_to_go_on(
    number: signal.Signals, workers: int, whole_group: bool, unhurried: tuple[Recipe, Path], tmp_path: Path
) -> None:
    """Also where a scheduler signals the loader's workers with their trainer."""
    recipe = with_training(unhurried[0], loader_workers=workers)
    config, run = write_recipe(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run)
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 40, process)
    os.killpg(process.pid, number) if whole_group else process.send_signal(number)
    _, stderr = process.communicate(timeout=300)
    newest = checkpoints_in(run / "checkpoints")[-1]
    assert process.returncode == 128 + number, stderr
    assert f"stopped at step {int(newest.name[5:])} of 144; go on with the same command and --resume" in stderr
    assert "Traceback" not in stderr
    assert not (run / "summary.json").exists()
    stderr = finish(config, run, "--resume")
    assert f"going on from {newest.name}" in stderr
    assert outcome_of(run) == outcome_of(unhurried[1])


@pytest.fixture(scope="module")
def cached_recipe(long_recipe: Recipe) -> Recipe:
    """The same with a hundred views in the cache, which last a moment to fill."""
    return with_training(long_recipe, epochs=3, boundary_cache=BoundaryCacheConfig(enabled=True, views=100))


@pytest.mark.slow
def test_a_signal_while_the_cache_is_filled_keeps_what_is_there(cached_recipe: Recipe, tmp_path: Path) -> None:
    config, run = write_recipe(cached_recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run)
    wait_for(lambda: any(run.glob("boundary_cache/*/rank-*/*.safetensors")), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "stopped at step 0 of 9" in stderr
    kept = len(list(run.glob("boundary_cache/*/rank-*/*.safetensors")))
    stderr = finish(config, run, "--resume")
    assert f"in 101 shards, {101 - kept} computed now" in stderr
    finish(config, tmp_path / "straight")
    assert outcome_of(run) == outcome_of(tmp_path / "straight")


@pytest.mark.slow
def test_two_processes_fill_and_read_one_cache_as_one_process_does(cached_recipe: Recipe, tmp_path: Path) -> None:
    cache = cached_recipe.training.boundary_cache.model_copy(update={"views": 2})
    recipe = with_training(cached_recipe, boundary_cache=cache)
    for name, launcher, accumulated in (("one", (), 2), ("two", tuple(TORCHRUN), 1)):
        mine = with_training(recipe, gradient_accumulation=accumulated)
        finish(write_recipe(mine, tmp_path / f"{name}.yaml"), tmp_path / name, launcher=launcher)
    assert outcome_of(tmp_path / "two") == outcome_of(tmp_path / "one")


@pytest.mark.slow
def test_each_process_fills_its_part_of_one_cache_and_a_later_run_of_one_process_reads_all(
    cached_recipe: Recipe, tmp_path: Path
) -> None:
    cache = cached_recipe.training.boundary_cache.model_copy(update={"views": 3, "dir": tmp_path / "cache"})
    recipe = with_training(cached_recipe, epochs=1, boundary_cache=cache)
    config = write_recipe(recipe, tmp_path / "recipe.yaml")
    assert "in 4 shards, 4 computed now" in finish(config, tmp_path / "two", launcher=tuple(TORCHRUN))
    (folder,) = (tmp_path / "cache").iterdir()
    parts = [{file.name for file in folder.glob(f"rank-{rank:05d}/*.safetensors")} for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    assert not parts[0] & parts[1]
    assert not list(folder.glob(".sign-*"))
    assert "in 4 shards, 0 computed now" in finish(config, tmp_path / "one")


@pytest.mark.slow
def test_a_cache_on_disks_that_are_not_shared_is_refused_before_it_is_filled(
    cached_recipe: Recipe, tmp_path: Path
) -> None:
    """As it is where each machine has a disk of its own: here each process has a folder."""
    config = write_recipe(with_training(cached_recipe, epochs=1), tmp_path / "recipe.yaml")
    script = f"{sys.executable} {ROOT / 'recipes' / 'finetune.py'} --config {config} --out {tmp_path / 'run'}"
    wrapped = ["--no-python", "sh", "-c", f"{script} training.boundary_cache.dir={tmp_path}/disk-$RANK"]
    done = subprocess.run([sys.executable, *TORCHRUN, *wrapped], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "process 1 on" in done.stderr
    assert "set training.boundary_cache.dir to a folder that all machines share" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not list(tmp_path.glob("disk-*/*/rank-*"))


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


@pytest.mark.slow
def test_one_killed_worker_of_two_and_the_launch_ends_as_one_process_would(
    long_recipe: Recipe, straight: dict[str, Any], tmp_path: Path
) -> None:
    """Two processes that don't accumulate are the same steps, and the same bytes: one sum of two gradients."""
    recipe = with_training(long_recipe, gradient_accumulation=1)
    config, run = write_recipe(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run, launcher=(*TORCHRUN, "--max-restarts=1"))
    wait_for_step(run, 20, process)
    workers = [child for child in psutil.Process(process.pid).children() if "finetune.py" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "going on from step-000000" in stderr
    assert outcome_of(run) == straight


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(long_recipe: Recipe, straight: dict[str, Any], tmp_path: Path) -> None:
    recipe = with_training(long_recipe, gradient_accumulation=1)
    config, run = write_recipe(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run, launcher=tuple(TORCHRUN))
    wait_for_step(run, 10, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert "stopped at step" in stderr
    stderr = finish(config, run, "--resume")
    assert "processes 2 -> 1" in stderr
    assert "effective batch 12 = 6 x 2 micro-batches, as the run began" in stderr
    assert outcome_of(run) == straight


def test_resuming_where_nothing_is_yet_starts_from_the_beginning(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"epochs": 1})
    finetune(recipe, tmp_path / "a")
    finetune(recipe, tmp_path / "b", resume=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".lock").touch()
    finetune(recipe, tmp_path / "c")
    assert outcome_of(tmp_path / "a") == outcome_of(tmp_path / "b") == outcome_of(tmp_path / "c")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [".git", "notes.txt"])
def test_a_folder_that_holds_something_else_is_left_alone(
    name: str, resume: bool, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "mine" / name).mkdir(parents=True)
    with pytest.raises(ToolkitError, match="something that is no run is there already"):
        finetune(make_recipe(), tmp_path / "mine", resume=resume)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]


def test_a_finished_run_that_is_resumed_trains_nothing(
    finished_run: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = outcome_of(run)
    finetune(make_recipe(finished_run.name, tracking=FINISHED), run, resume=True)
    assert outcome_of(run) == before


def test_a_recipe_of_before_a_key_was_there_says_the_same(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    resolved = recipe.model_dump(mode="json")
    del resolved["training"]["keep_last"]
    assert recipe.equals(resolved)
    assert not recipe.equals(resolved | {"tracking": {"log_every": 77}})
    assert not recipe.equals("no recipe")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "epoch.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_named(
    name: str, damage: Callable[[Path], None], finished_run: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    before, last = checkpoints_in(tmp_path / "run" / "checkpoints")
    damage(last / name)
    with pytest.raises(ToolkitError, match="damaged checkpoint") as caught:
        finetune(make_recipe(finished_run.name, tracking=FINISHED), tmp_path / "run", resume=True)
    assert caught.value.where == str(last)
    assert before.name in caught.value.fix


def test_another_recipes_checkpoint_is_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    mine, other = make_recipe(training={"epochs": 1}), make_recipe(training={"epochs": 1, "learning_rate": 0.5})
    finetune(mine, tmp_path / "mine")
    finetune(other, tmp_path / "other")
    shutil.rmtree(tmp_path / "mine" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "mine" / "checkpoints")
    with pytest.raises(ToolkitError, match="belongs to another recipe"):
        finetune(mine, tmp_path / "mine", resume=True)


def test_data_that_changed_is_refused(make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(color_data, tmp_path / "data")
    recipe = make_recipe(data={"path": data}, training={"epochs": 1})
    finetune(recipe, tmp_path / "run")
    red, blue = data / "train" / "red" / "00.png", data / "train" / "blue" / "00.png"
    shutil.copy(blue, red)
    with pytest.raises(ToolkitError, match="belongs to another data set"):
        finetune(recipe, tmp_path / "run", resume=True)


def test_two_runs_do_not_write_into_one_folder(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom toolkit.lock import lock\n"
        "with lock(Path(sys.argv[1]), what='x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ToolkitError, match="another run is writing here already"):
            finetune(make_recipe(training={"epochs": 1}), tmp_path / "run")
        holder.kill()
    finetune(make_recipe(training={"epochs": 1}), tmp_path / "run")
    with lock(tmp_path / "run", what="a finished run"):
        pass


def test_a_full_disk_is_said_and_the_last_checkpoint_stays_good(
    make_recipe: Callable[..., Recipe], small_disk: Path
) -> None:
    recipe = make_recipe(training={"epochs": 50} | EVERY_STEP)
    with pytest.raises(ToolkitError, match="No space left on device"):
        finetune(recipe, small_disk / "run")
    checkpoints = checkpoints_in(small_disk / "run" / "checkpoints")
    assert checkpoints
    read_checkpoint(checkpoints[-1])
    assert not list(small_disk.rglob(".*partial*"))


def test_checkpoints_rotate_and_hold_nothing_but_safetensors_and_json(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    finetune(make_recipe(training={"checkpoint_every": 2, "keep_last": 3}), tmp_path / "run")
    checkpoints = checkpoints_in(tmp_path / "run" / "checkpoints")
    assert [path.name for path in checkpoints] == ["step-00000006", "step-00000008", "step-00000010"]
    for path in checkpoints:
        assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
        names = [name for file in path.glob("*.safetensors") for name in load_file(file)]
        assert not [name for name in names if "_orig_mod" in name or name.startswith("module.")]
