"""A recipe on a Ray of this machine: the bytes of torchrun's run, whichever process dies, and mistakes in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread, current_thread
from typing import Any

import psutil
import pytest

from recipes.finetune import finetune
from recipes.ray_train import Launch, Lines, _ctrl_c_kept, _in_words, _work, ray_train
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.launch import LAUNCH
from toolkit.runs.run_folder import RunFolder

ray = pytest.importorskip("ray", reason="Ray is not installed")
ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TWO_NODES = """
import ray
from ray.cluster_utils import Cluster

from recipes.ray_train import Lines, _printed

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
other = cluster.add_node(num_cpus=2)
ray.init(cluster.address, log_to_driver=False)
with _printed() as said:
    place = ray.get(said.actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
    print("on this node", place == ray.get_runtime_context().get_node_id())
    cluster.remove_node(other, allow_graceful=False)
    Lines(said).write("with one node less\\n")
with _printed() as said:
    ray.kill(said.actor)
    Lines(said).write("to nobody\\n")
ray.shutdown()
cluster.shutdown()
print("the end")
"""
"""A cluster whose other node has all the cores, and is lost; then the queue is."""


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


def kill_at_first_checkpoint(run: Path) -> list[int]:
    """Kill one of Ray's workers as soon as a checkpoint is there, in a thread; its number is in the list then."""
    killed: list[int] = []

    def kill() -> None:
        while not list((run / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        workers = [each for each in psutil.Process().children(recursive=True) if "RayTrainWorker" in each.name()]
        workers[-1].kill()
        killed.append(workers[-1].pid)

    Thread(target=kill, daemon=True).start()
    return killed


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


class Gone:
    """A queue whose actor died."""

    def put(self, item: Any) -> None:
        raise ray.exceptions.ActorDiedError


def test_lines_that_nobody_takes_are_no_failure() -> None:
    lines = Lines(Gone())
    print("epoch 1", file=lines)
    assert lines.write("epoch") == 5


def failed(**failures: Exception) -> Exception:
    from ray.train.v2.api.exceptions import WorkerGroupError

    return WorkerGroupError("two lines\nof Ray", {int(rank[1:]): cause for rank, cause in failures.items()})


def died() -> Exception:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError("A worker health check failed.\nWorker info", ray.exceptions.ActorDiedError())


RESET = RuntimeError("gloo: connection reset by peer")
MISTAKE = ToolkitError("no such folder", where="data.path", fix="give another")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            lambda: failed(_0=RESET, _1=died()),
            "process 1 failed: WorkerHealthCheckFailedError: The actor died unexpectedly ",
        ),
        (
            lambda: failed(_2=ValueError(), _1=ValueError("of one")),
            "process 1 failed: ValueError: of one; go on with --resume",
        ),
        (lambda: failed(_3=KeyError()), "process 3 failed: KeyError; go on with --resume"),
        (failed, "Ray Train failed: WorkerGroupError: of Ray; go on with --resume"),
    ],
    ids=["one-died", "lowest", "no-words", "none"],
)
def test_the_process_is_named_that_made_the_training_fail(error: Callable[[], Exception], said: str) -> None:
    words = _in_words(error())
    assert isinstance(words, CheckFailed)
    assert str(words).startswith(said)


def test_a_mistake_is_raised_whatever_failed_of_it() -> None:
    assert _in_words(failed(_0=RESET, _1=died(), _2=MISTAKE)) is MISTAKE


def test_what_the_controller_met_is_no_process_s_failure() -> None:
    from ray.train.v2.api.exceptions import ControllerError, PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    words = str(_in_words(ControllerError(OSError("no room for Ray's notes"))))
    assert words == "Ray Train failed: ControllerError: no room for Ray's notes; go on with --resume"
    words = str(_in_words(PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [1]}))))
    assert words.startswith(
        "Ray Train failed: PreemptionError: Training was interrupted by node preemption (preempted_"
    )


def test_ctrl_c_does_afterwards_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _ctrl_c_kept():
        signal.signal(signal.SIGINT, lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is before
    done: list[Thread] = []

    def elsewhere() -> None:
        with _ctrl_c_kept():
            done.append(current_thread())

    thread = Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [thread]


def test_what_a_bare_ray_lacks_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise ModuleNotFoundError(\"No module named 'pandas'\", name='pandas')")
    script = [str(ROOT / "recipes" / "ray_train.py"), "--config", str(ROOT / "recipes" / "configs" / "digits.yaml")]
    done = subprocess.run(
        [sys.executable, *script, "--out", str(tmp_path / "run"), "--workers", "1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = 'error: pandas is not installed (at recipes/ray_train.py); pip install "clip-toolkit[ray]"\n'
    assert done.stderr == said


@pytest.mark.slow
def test_lines_are_printed_on_this_node_whatever_other_is_lost() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:
        env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": place, "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(
            [sys.executable, "-c", TWO_NODES], env=env, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    assert {"on this node True", "the end"} <= set(done.stdout.splitlines())
    assert "with one node less" in done.stderr.splitlines()
    assert "to nobody" not in done.stderr


@pytest.mark.slow
def test_two_workers_of_ray_train_what_two_of_torchrun_do(
    make_recipe: Callable[..., Recipe],
    by_torchrun: Path,
    cluster: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    summary = ray_train(make_recipe(), tmp_path / "run", workers=2)
    assert signal.getsignal(signal.SIGINT) is before
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
    killed = kill_at_first_checkpoint(tmp_path / "run")
    ray_train(make_recipe(), tmp_path / "run", workers=2, max_failures=1)
    assert killed
    assert_same_run(tmp_path / "run", by_torchrun)


@pytest.mark.slow
def test_a_worker_that_is_killed_for_good_is_named_and_not_the_one_that_waited_for_it(
    make_recipe: Callable[..., Recipe], cluster: None, tmp_path: Path
) -> None:
    killed = kill_at_first_checkpoint(tmp_path / "run")
    with pytest.raises(CheckFailed, match=r"process [01] failed: WorkerHealthCheckFailedError: The actor is dead"):
        ray_train(make_recipe(), tmp_path / "run", workers=2)
    assert killed


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
