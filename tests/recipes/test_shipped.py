from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from toolkit.recipe.reading import load_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "finetune.py"
Ended = subprocess.CompletedProcess[str]
RECIPES = sorted((ROOT / "recipes").rglob("configs/**/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_says_what_it_needs(path: Path) -> None:
    recipe = load_recipe(path)
    assert load_recipe(path, ["training.epochs=3"]).training.epochs == 3
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("needs", "launch", "override"):
        assert any(word in line for line in header), word
    assert yaml.safe_load(recipe.as_yaml()) == recipe.model_dump(mode="json")


def test_every_yaml_in_the_repository_was_looked_at() -> None:
    others = set((ROOT / "recipes").rglob("*.yaml")) - set(RECIPES)
    assert {path.parent.name for path in others} == {"accelerate"}


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES[0], ["training.mixed_precision=bf16"])
    (tmp_path / "recipe.yaml").write_text(recipe.as_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["training.epoch=3"], ["unknown key 'training.epoch'", "'epochs'"]),
    (["model.unfreeze=[layer5]"], ["'layer5' matches no group", "layers.5"]),
    (["model.unfreeze_last=7"], ["7 layers", "6"]),
    (["model.encoder=/no/such/encoder"], ["/no/such/encoder", "tiny-clip"]),
    (["training.mixed_precision=fp16"], ["fp16 training needs a GPU"]),
    (["data.path=/no/such/data"], ["no such data folder", "/no/such/data"]),
    (["data.path=2020-13-45"], ["2020-13-45"]),
    (["model.head=linear"], ["model.head"]),
    (["--no-such-option"], ["--no-such-option", "--help"]),
    (["--out", "/proc/run"], ["can't write here", "/proc/run"]),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_a_mistake_in_a_recipe_is_one_line_exit_2_and_leaves_nothing(
    arguments: list[str], says: list[str], color_data: Path, tmp_path: Path, in_process: Callable[..., Ended]
) -> None:
    import torch

    if "fp16" in arguments[0] and torch.accelerator.is_available():
        pytest.skip("this machine has a GPU, which trains in fp16")
    _is_said(in_process(*_options(color_data, tmp_path), *arguments, script=SCRIPT), says, tmp_path)


def test_so_it_is_in_a_process_of_its_own(color_data: Path, tmp_path: Path) -> None:
    arguments, says = MISTAKES[1]
    command = [sys.executable, SCRIPT, *_options(color_data, tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    _is_said(done, says, tmp_path)


def _options(data: Path, folder: Path) -> list[str | Path]:
    return ["--config", ROOT / "recipes" / "configs" / "digits.yaml", "--out", folder / "run", f"data.path={data}"]


def _is_said(done: Ended, says: list[str], folder: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [text for text in says if text not in done.stderr] == []
    assert list(folder.iterdir()) == []
