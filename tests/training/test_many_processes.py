"""Any number of processes on CPUs that don't accumulate gives the bytes of one that does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted_runs import EVERY_STEP, outcome_of

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]


def outcome(recipe: Recipe, out: Path, processes: int) -> dict[str, Any]:
    """Of a run on one core, so that each process has one thread."""
    config = out.with_suffix(".yaml")
    config.write_text(recipe.as_yaml())
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(ROOT / "recipes" / "finetune.py")]
    process = subprocess.Popen(
        [*command, "--config", str(config), "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return outcome_of(out)


@pytest.mark.parametrize(
    "processes", [pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_many_processes_give_the_bytes_of_one(
    processes: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def recipe(accumulated: int) -> Recipe:
        training = {"epochs": 2, "batch_size": 2, "gradient_accumulation": accumulated} | EVERY_STEP
        return make_recipe(training=training)

    one = outcome(recipe(processes), tmp_path / "one", 1)
    assert outcome(recipe(1), tmp_path / "many", processes) == one
