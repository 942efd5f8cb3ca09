"""A recipe on a Ray of this machine: the bytes of torchrun's run, whichever process dies, and mistakes in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import psutil
import pytest

from recipes.finetune import finetune
from recipes.ray_train import Launch, _work, ray_train
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.launch import LAUNCH
from toolkit.runs.run_folder import RunFolder

ray = pytest.importorskip("ray", reason="Ray is not installed")
ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores, which leaves nothing behind."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it, whose paths may have 107 characters
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 128 << 20}
    ray.init(num_cpus=2, _temp_dir=place, **options)
    yield
    ray.shutdown()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def by_torchrun(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that torchrun starts."""
    work = tmp_path_factory.mktemp("torchrun")
    (work / "recipe.yaml").write_text(make_recipe().as_yaml())
    options = ["--config", str(work / "recipe.yaml"), "--out", str(work / "run")]
    command = [*TORCHRUN, str(ROOT / "recipes/finetune.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return work / "run"


def assert_same_run(run: Path, other: Path) -> None:
    for name in ("best/model.safetensors", "best/config.json", "best/labels.json", "recipe.yaml"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    summaries = [json.loads((each / "summary.json").read_text()) for each in (run, other)]
    assert [summary["processes"] for summary in summaries] == [2, 2]
    assert summaries[0]["test"] == summaries[1]["test"]


def test_what_a_process_does_is_the_recipe_and_a_restart_goes_on(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray, which the slow tests have."""
    recipe, said = make_recipe(), Queue[Any]()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(LAUNCH, "")  # set by it, and so put back
    launch = Launch(recipe, tmp_path / "run", tmp_path, False, False, "ray 1", said)
    summary = _work({"launch": launch})
    assert summary["test"] == finetune(recipe, tmp_path / "straight")["test"]
    weights = [(tmp_path / run / "best" / "model.safetensors").read_bytes() for run in ("run", "straight")]
    assert weights[0] == weights[1]
    lines = [said.get_nowait() for _ in range(said.qsize())]
    assert sum(line.startswith("epoch 2: ") for line in lines) == 1
    assert _work({"launch": launch})["test"] == summary["test"]  # the same launch goes on, with nothing left to do
    other = dataclasses.replace(launch, id="ray 2")
    with pytest.raises(ToolkitError, match="already"):
        raise _work({"launch": other})


@pytest.mark.slow
def test_two_workers_of_ray_train_what_two_of_torchrun_do(
    make_recipe: Callable[..., Recipe],
    by_torchrun: Path,
    cluster: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    summary = ray_train(make_recipe(), tmp_path / "run", workers=2)
    assert summary["test"]["images"] == 21
    assert_same_run(tmp_path / "run", by_torchrun)
    assert str(RunFolder(tmp_path / "run").launch()).startswith("ray ")
    said = capfd.readouterr().err
    assert said.count("2 processes on cpu") == said.count("epoch 2: ") == 1
    assert "ray" not in said.lower().replace(str(tmp_path).lower(), "")


@pytest.mark.slow
def test_a_worker_that_is_killed_comes_back_to_the_same_bytes(
    make_recipe: Callable[..., Recipe], by_torchrun: Path, cluster: None, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        workers = [each for each in psutil.Process().children(recursive=True) if "RayTrainWorker" in each.name()]
        workers[-1].kill()
        killed.append(workers[-1].pid)

    thread = Thread(target=kill, daemon=True)
    thread.start()
    recipe = make_recipe()
    ray_train(recipe, tmp_path / "run", workers=2, max_failures=1)
    thread.join()
    assert killed
    assert_same_run(tmp_path / "run", by_torchrun)


@pytest.mark.slow
def test_a_mistake_that_all_processes_know_of_is_raised_once(
    make_recipe: Callable[..., Recipe], cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="no such data folder"):
        ray_train(make_recipe(data={"path": tmp_path / "nowhere"}), tmp_path / "run", workers=1, max_failures=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_workers_than_there_is_room_for_are_refused(
    make_recipe: Callable[..., Recipe], cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="3 workers need as many CPUs, and the Ray cluster has 2"):
        ray_train(make_recipe(), tmp_path / "run", workers=3)
