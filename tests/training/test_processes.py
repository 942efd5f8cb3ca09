from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


def launch(recipe: Recipe, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    out.parent.mkdir(exist_ok=True)
    config = out.parent / f"{out.name}.yaml"
    config.write_text(recipe.as_yaml())
    command = [*LAUNCH, *options, str(ROOT / "recipes/finetune.py"), "--config", str(config), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)


@pytest.mark.slow
def test_two_processes_count_every_image_once_and_learn_what_one_process_learns(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Twice the processes with half the batch each are the same steps on the same images."""
    one = finetune(make_recipe(training={"batch_size": 6}, model={"head": {"dropout": 0.0}}), tmp_path / "one")
    recipe = make_recipe(training={"batch_size": 3}, model={"head": {"dropout": 0.0}})
    launched = launch(recipe, tmp_path / "two", "--config_file", str(ROOT / "recipes/accelerate/cpu_2_processes.yaml"))
    assert launched.returncode == 0, launched.stderr
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert "2 processes on cpu" in launched.stderr
    assert (two["processes"], two["steps"]) == (2, one["steps"])
    for split in ("train", "validation", "test"):
        assert two[split]["images"] == one[split]["images"]
        assert two[split]["accuracy"] == pytest.approx(one[split]["accuracy"], abs=0.05)
    weights = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=5e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_mistake_ends_every_process_and_leaves_nothing(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(data={"path": tmp_path / "nowhere"})
    launched = launch(recipe, tmp_path / "run", "--config_file", str(ROOT / "recipes/accelerate/cpu_2_processes.yaml"))
    assert launched.returncode != 0
    assert launched.stderr.count("error: there is no such data folder") == 1
    assert not (tmp_path / "run").exists()


def test_the_launch_configuration_is_the_one_that_really_starts_two() -> None:
    content = yaml.safe_load((ROOT / "recipes/accelerate/cpu_2_processes.yaml").read_text())
    assert (content["distributed_type"], content["use_cpu"], content["num_processes"]) == ("MULTI_GPU", True, 2)
