"""A run that was stopped and resumed is the run that never was: weights, moments, metrics."""

from __future__ import annotations

import json
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
from safetensors.torch import load_file

from recipes.finetune import finetune
from toolkit.config import Recipe
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.training.checkpoints import checkpoints_in, read_checkpoint
from toolkit.training.locks import locked

ROOT = Path(__file__).parents[2]
TIMES = {"epoch_seconds", "images_per_second", "data_wait_share", "time_shares", "worker_seconds"}
EVERY_STEP = {"checkpoint_every": 1, "keep_last": 1000}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def outcome_of(run: Path) -> dict[str, Any]:
    """All that must be equal between two runs: hashes of weights and moments, and the metrics without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = [run / "best" / "model.safetensors", *sorted(run.glob("checkpoints/*/*.safetensors"))]
    return {
        "files": {str(file.relative_to(run)): sha256_of(file) for file in files},
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "test": json.loads((run / "summary.json").read_text())["test"],
    }


def cut_back(run: Path, step: int, to: Path) -> None:
    """What lay on the disk when a run was killed after ``step``, with later metrics and no end."""
    shutil.copytree(run, to)
    for checkpoint in checkpoints_in(to / "checkpoints"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    (to / "summary.json").unlink()
    with (to / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "split": "tr')


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
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    training = {"epochs": 3, "batch_size": 5} | EVERY_STEP | training
    recipe = make_recipe(model=model, training=training, data=data)
    steps = finetune(recipe, tmp_path / "straight")["steps"]
    for step in (0, 1, steps // 2, steps - 1, steps):
        cut_back(tmp_path / "straight", step, tmp_path / f"cut-{step}")
        finetune(recipe, tmp_path / f"cut-{step}", resume=True)
        assert outcome_of(tmp_path / f"cut-{step}") == outcome_of(tmp_path / "straight"), step


def write_recipe(recipe: Recipe, path: Path) -> Path:
    path.write_text(recipe.as_yaml())
    return path


def start(config: Path, out: Path, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Launch the recipe on one core, so that one process and two have a thread each."""
    command = [*launcher, str(ROOT / "recipes" / "finetune.py"), "--config", str(config), "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    return process


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    while not (run / "checkpoints" / f"step-{step:08d}").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def long_recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    """Twenty epochs of three steps of two micro-batches, which last a few seconds."""
    training = {"epochs": 20, "batch_size": 6, "gradient_accumulation": 2} | EVERY_STEP
    return make_recipe(training=training, data={"augment": ["crop"]})


@pytest.fixture(scope="module")
def straight(long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the long recipe gives in one process that nobody stops."""
    folder = tmp_path_factory.mktemp("straight")
    process = start(write_recipe(long_recipe, folder / "recipe.yaml"), folder / "run")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return outcome_of(folder / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_at_the_next_step_and_says_how_to_go_on(
    number: signal.Signals, long_recipe: Recipe, straight: dict[str, Any], tmp_path: Path
) -> None:
    config, run = write_recipe(long_recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run)
    wait_for_step(run, 4, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    newest = checkpoints_in(run / "checkpoints")[-1]
    assert process.returncode == 128 + number
    assert f"stopped at step {int(newest.name[5:])} of 60; go on with the same command and --resume" in stderr
    assert not (run / "summary.json").exists()
    resumed = start(config, run, "--resume")
    _, stderr = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, stderr
    assert f"going on from {newest.name}" in stderr
    assert outcome_of(run) == straight


def without_accumulation(recipe: Recipe) -> Recipe:
    training = recipe.training.model_copy(update={"gradient_accumulation": 1})
    return recipe.model_copy(update={"training": training})


def test_one_killed_worker_of_two_and_the_launch_ends_as_one_process_would(
    long_recipe: Recipe, straight: dict[str, Any], tmp_path: Path
) -> None:
    """Two processes that don't accumulate are the same steps, and the same bytes: one sum of two gradients."""
    recipe = without_accumulation(long_recipe)
    config, run = write_recipe(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run, launcher=(*TORCHRUN, "--max-restarts=1"))
    wait_for_step(run, 20, process)
    workers = [child for child in psutil.Process(process.pid).children() if "finetune.py" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "going on from step-000000" in stderr
    assert outcome_of(run) == straight


def test_a_run_of_two_processes_goes_on_in_one(long_recipe: Recipe, straight: dict[str, Any], tmp_path: Path) -> None:
    recipe = without_accumulation(long_recipe)
    config, run = write_recipe(recipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    process = start(config, run, launcher=tuple(TORCHRUN))
    wait_for_step(run, 10, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert "stopped at step" in stderr
    resumed = start(config, run, "--resume")
    _, stderr = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, stderr
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
        finetune(make_recipe(finished_run.name, tracking={"tensorboard": True}), tmp_path / "run", resume=True)
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
        "import sys, time\nfrom pathlib import Path\nfrom toolkit.training.locks import locked\n"
        "with locked(Path(sys.argv[1]), what='x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ToolkitError, match="another run is writing here already"):
            finetune(make_recipe(training={"epochs": 1}), tmp_path / "run")
        holder.kill()
    finetune(make_recipe(training={"epochs": 1}), tmp_path / "run")
    with locked(tmp_path / "run", what="a finished run"):
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
