"""Two machines under torchrun, played by two launchers on this one: a lost one comes back, and the bytes are the same.

Each launcher and its worker form a session of their own, which dies as a whole. Who goes on unasked
is the quick part, in test_launch.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted_runs import EVERY_STEP, outcome_of

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
LEADER, OTHER = "127.0.0.1", "localhost"
"""What the launchers are called: the worker of the name that sorts first has rank 0, which writes the run folder."""


def recipe_of(make_recipe: Callable[..., Recipe], accumulated: int) -> Recipe:
    training = {"epochs": 6, "batch_size": 6, "gradient_accumulation": accumulated} | EVERY_STEP
    return make_recipe(training=training, data={"augment": ["crop"]})


class Machines:
    """The launchers of one run."""

    def __init__(self, recipe: Recipe, run: Path) -> None:
        self.run, self.config = run, run.with_suffix(".yaml")
        self.config.write_text(recipe.as_yaml())
        self.started: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self, name: str, *options: str, rendezvous: bool = False) -> subprocess.Popen[bytes]:
        launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max-restarts=2"]
        launcher += ["--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{self.port}", "--rdzv_id=two-nodes"]
        launcher += [f"--rdzv_conf=is_host={int(rendezvous)}", f"--local_addr={name}"]
        recipe = [str(ROOT / "recipes" / "finetune.py"), "--config", str(self.config), "--out", str(self.run), *options]
        env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with self.said.open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, *launcher, *recipe], cwd=ROOT, env=env, stderr=stderr, start_new_session=True
            )
        psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])  # so that each has a thread
        self.started.append(process)
        return process

    @property
    def said(self) -> Path:
        return self.run.with_suffix(".txt")

    def wait_for_step(self, step: int) -> None:
        while not (self.run / "checkpoints" / f"step-{step:08d}").exists():
            assert all(process.poll() is None for process in self.started), self.said.read_text()
            time.sleep(0.01)

    def end_well(self, *processes: subprocess.Popen[bytes]) -> None:
        assert [process.wait(timeout=300) for process in processes] == [0] * len(processes), self.said.read_text()


def signal_machine(launcher: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a launcher and its worker, which has a session of its own."""
    for process in (*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)):
        process.send_signal(number)
    if number == signal.SIGKILL:
        launcher.wait()


@pytest.fixture
def machines(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Iterator[Machines]:
    both = Machines(recipe_of(make_recipe, 1), tmp_path / "run")
    yield both
    for launcher in both.started:
        if launcher.poll() is None:
            signal_machine(launcher, signal.SIGKILL)


@pytest.fixture(scope="module")
def straight(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process gives that nobody stops."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "recipe.yaml").write_text(recipe_of(make_recipe, 2).as_yaml())
    script = [str(ROOT / "recipes" / "finetune.py"), "--config", str(folder / "recipe.yaml"), "--out"]
    process = subprocess.Popen([sys.executable, *script, str(folder / "run")], cwd=ROOT)
    psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    assert process.wait(timeout=300) == 0
    return outcome_of(folder / "run")


@pytest.mark.slow
def test_a_killed_machine_that_comes_back_leaves_no_trace(machines: Machines, straight: dict[str, Any]) -> None:
    """It has rank 0 again, and hears from the other that the run is under way."""
    survivor, lost = machines.start(OTHER, rendezvous=True), machines.start(LEADER)
    machines.wait_for_step(6)
    signal_machine(lost, signal.SIGKILL)
    machines.end_well(survivor, machines.start(LEADER))
    assert "going on from step-000000" in machines.said.read_text()
    assert outcome_of(machines.run) == straight


@pytest.mark.slow
def test_a_machine_that_falls_silent_is_replaced(machines: Machines, straight: dict[str, Any]) -> None:
    """Its connections stay open, so the other's worker waits; its launcher learns of the loss by the rendezvous."""
    survivor, lost = machines.start(LEADER, rendezvous=True), machines.start(OTHER)
    machines.wait_for_step(6)
    signal_machine(lost, signal.SIGSTOP)
    machines.end_well(survivor, machines.start(OTHER))
    said = machines.said.read_text()
    assert "going on from step-000000" in said
    assert "a run is there already" not in said
    assert outcome_of(machines.run) == straight


@pytest.mark.slow
def test_where_the_machine_of_the_rendezvous_is_lost_the_other_ends_and_resume_goes_on(
    machines: Machines, straight: dict[str, Any]
) -> None:
    lost, other = machines.start(LEADER, rendezvous=True), machines.start(OTHER)
    machines.wait_for_step(6)
    signal_machine(lost, signal.SIGKILL)
    assert other.wait(timeout=60) != 0
    machines.end_well(machines.start(LEADER, "--resume", rendezvous=True), machines.start(OTHER, "--resume"))
    assert outcome_of(machines.run) == straight
