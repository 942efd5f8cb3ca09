"""A checkpoint whose tensors are not the run's is refused by name, whatever its hashes say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.training.checkpoints import (
    AVERAGE,
    EPOCH,
    OPTIMIZER,
    WEIGHTS,
    checkpoints_in,
    read_checkpoint,
    write_checkpoint,
)

FC1 = "encoder.model.vision_model.encoder.layers.2.mlp.fc1.weight"
Tensors = dict[str, dict[str, Tensor]]
State = dict[str, Any]


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe(training={"epochs": 1, "ema_decay": 0.9, "keep_last": 1})


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    finetune(recipe, out)
    return out


def rewrite(run: Path, change: Callable[[Tensors, State], object]) -> None:
    """Change a run's checkpoint and write it as the trainer does, with hashes that fit."""
    (path,) = checkpoints_in(run / "checkpoints")
    tensors, state = read_checkpoint(path)
    change(tensors, state)
    write_checkpoint(run / "checkpoints", state["step"], tensors, state, keep_last=1)


def replaced(file: str, name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors, State], object]:
    def apply(tensors: Tensors, state: State) -> None:
        tensors[file][name] = change(tensors[file][name]).clone()

    return apply


def dropped(file: str, *parts: str) -> Callable[[Tensors, State], object]:
    def apply(tensors: Tensors, state: State) -> None:
        tensors[file] = {name: t for name, t in tensors[file].items() if not any(part in name for part in parts)}

    return apply


def test_a_checkpoint_that_was_only_written_again_goes_on(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    rewrite(run, lambda tensors, state: None)
    assert finetune(recipe, run, resume=True)["epochs"] == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (dropped(WEIGHTS, FC1), "other trainable parameters"),
        (replaced(WEIGHTS, FC1, lambda t: t[:, :8]), "other trainable parameters"),
        (
            replaced(WEIGHTS, FC1, Tensor.half),
            f"model.safetensors: 1 of .* another type: {FC1} is float16, not float32",
        ),
        (replaced(WEIGHTS, FC1, lambda t: t / 0), f"model.safetensors: 1 of .* not finite: {FC1}"),
        (dropped(OPTIMIZER, f"{FC1}.exp_avg_sq"), rf"optimizer.safetensors: 1 of .* missing: {FC1}.exp_avg_sq"),
        (dropped(OPTIMIZER, FC1), rf"optimizer.safetensors: 3 of .* missing: {FC1}.step, "),
        (dropped(OPTIMIZER, "exp_avg"), r"optimizer.safetensors: \d+ of .* missing: .* and \d+ more"),
        (dropped(OPTIMIZER, ""), r"optimizer.safetensors: \d+ of \d+ tensors are missing"),
        (replaced(OPTIMIZER, f"{FC1}.exp_avg", Tensor.bfloat16), "another type: .* is bfloat16, not float32"),
        (replaced(OPTIMIZER, f"{FC1}.exp_avg", lambda t: t.T), r"another shape: .* is \[32, 64\], not \[64, 32\]"),
        (replaced(OPTIMIZER, f"{FC1}.exp_avg_sq", lambda t: t + float("nan")), "not finite: .*exp_avg_sq"),
        (
            lambda tensors, state: tensors[OPTIMIZER].update({f"{FC1}.max_exp_avg_sq": torch.zeros(64, 32)}),
            "1 tensors have no place: .*max_exp_avg_sq",
        ),
        (dropped(AVERAGE, FC1), f"average.safetensors: 1 of .* missing: {FC1}"),
        (replaced(AVERAGE, FC1, Tensor.half), "average.safetensors: .* float16, not float32"),
        (lambda tensors, state: tensors.pop(AVERAGE), r"average.safetensors: \d+ of \d+ tensors are missing"),
        (dropped(EPOCH, "hits"), "epoch.safetensors: 1 of 2 tensors are missing: hits"),
        (replaced(EPOCH, "losses", lambda t: t[:5]), r"epoch.safetensors: .* losses is \[5\], not \[36\]"),
        (lambda tensors, state: tensors.pop(EPOCH), "epoch.safetensors missing"),
        (lambda tensors, state: tensors.pop(OPTIMIZER), "optimizer.safetensors missing"),
        (lambda tensors, state: state.pop("standing"), "standing in state.json missing"),
        (lambda tensors, state: state.pop("recipe"), "recipe in state.json missing"),
        (lambda tensors, state: state["standing"].pop("scheduled"), "does not say where the run stands: scheduled"),
        (lambda tensors, state: state["standing"].update(step="7"), "step must be a number"),
        (lambda tensors, state: state["standing"].update(best_score="good"), "best_score must be a number"),
    ],
)
def test_what_is_not_the_run_s_is_refused_by_name(
    change: Callable[[Tensors, State], object], what: str, recipe: Recipe, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (path,) = checkpoints_in(run / "checkpoints")
    rewrite(run, change)
    with pytest.raises(ToolkitError, match=what) as caught:
        finetune(recipe, run, resume=True)
    assert path.name in caught.value.where
    assert "remove this folder" in caught.value.fix or "resume with the recipe" in caught.value.fix


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"checksum": 1}'])
def test_a_state_that_is_none(content: str, recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (path,) = checkpoints_in(run / "checkpoints")
    (path / "state.json").write_text(content)
    with pytest.raises(ToolkitError, match="damaged checkpoint"):
        finetune(recipe, run, resume=True)
