"""The running average and WiSE-FT: against arithmetic by hand, in a run, and through a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from recipes.finetune import finetune
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.models.build import build_classifier
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.averaging import ALPHAS, RunningAverage


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "model.safetensors")


def test_the_average_is_the_exponential_one_with_a_decay_that_grows() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = RunningAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert set(average.state()) == {"weight"}
    torch.testing.assert_close(average.state()["weight"], expected)
    before = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), before)


def test_state_and_load_are_inverse_and_copies() -> None:
    model = nn.Linear(3, 2)
    average = RunningAverage(model, 0.9)
    state = average.state()
    with torch.no_grad():
        model.weight.add_(1)
    average.update(1)
    assert not torch.equal(average.state()["weight"], state["weight"])
    average.load(state)
    assert torch.equal(average.state()["weight"], state["weight"])


def test_a_run_keeps_the_average_and_what_is_frozen_stays(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """With a decay of all but nothing the kept weights lie at the start, where the plain run's don't."""
    long = {"epochs": 1, "ema_decay": 0.999999, "checkpoint_every": 1}
    finetune(make_recipe(training={"epochs": 1}), tmp_path / "plain")
    recipe = make_recipe(training=long)
    finetune(recipe, tmp_path / "average")
    data = open_data(recipe.data)
    start = build_classifier(recipe.model, data.classes, recipe.training.seed)[0].state_dict()
    plain, average = weights_of(tmp_path / "plain"), weights_of(tmp_path / "average")
    for name, tensor in average.items():
        moved = (plain[name] - start[name]).norm()
        if not moved or name == "temperature":
            continue
        # five steps: decays of 2/11, 3/12, ... leave little of the start but something of every step
        assert 0 < (tensor - plain[name]).norm() < moved
    frozen = [name for name in plain if torch.equal(plain[name], start[name])]
    assert any("layers.0" in name for name in frozen)
    assert all(torch.equal(average[name], start[name]) for name in frozen)


def test_the_average_is_of_steps_not_of_micro_batches(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The gradient of a step doesn't depend on how it is cut; nor may the average."""
    dropless = {"head": {"hidden_size": 16, "dropout": 0.0}}
    whole = {"epochs": 1, "ema_decay": 0.9, "batch_size": 8}
    cut = {"epochs": 1, "ema_decay": 0.9, "batch_size": 4, "gradient_accumulation": 2}
    finetune(make_recipe(training=whole, model=dropless), tmp_path / "whole")
    finetune(make_recipe(training=cut, model=dropless), tmp_path / "cut")
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    for name in one:
        if name != "temperature":
            torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (5, 7))])
def test_a_resumed_run_is_the_uninterrupted_one(make_recipe: Callable[..., Recipe], tmp_path: Path, step: int) -> None:
    training = {"ema_decay": 0.9, "checkpoint_every": 1, "keep_last": 100, "sampling": "balanced", "mixup": 0.4}
    recipe = make_recipe(training=training | {"label_smoothing": 0.1, "focal_gamma": 1.0, "class_weights": "balanced"})
    run = tmp_path / "run"
    finetune(recipe, run)
    expected = outcome_of(run)
    (run / "summary.json").unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    (run / "best" / "model.safetensors").write_bytes(b"of a later epoch")
    finetune(recipe, run, resume=True)
    assert outcome_of(run) == expected


def outcome_of(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    return {
        "best": sha256_of(run / "best" / "model.safetensors"),
        "metrics": RunFolder(run).history(times=False),
        "figures": {split: summary[split] for split in ("train", "validation", "test")},
        "wise_ft": summary["wise_ft"],
    }


def test_wise_ft_keeps_the_mean_that_is_best_on_validation(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    finetune(make_recipe(), plain)
    recipe = make_recipe(training={"wise_ft": True, "select_by": "loss"})
    summary = finetune(recipe, mixed)
    found = summary["wise_ft"]
    assert tuple(entry["alpha"] for entry in found["tried"]) == ALPHAS
    assert found["alpha"] == min(found["tried"], key=lambda entry: (entry["loss"], -entry["alpha"]))["alpha"]
    assert set(found["tried"][0]) == {"alpha", "loss", "accuracy"}  # of validation: the test split is not asked
    data = open_data(recipe.data)
    start = build_classifier(recipe.model, data.classes, recipe.training.seed)[0].state_dict()
    tuned, kept = weights_of(plain), weights_of(mixed)
    for name, tensor in kept.items():
        if name == "temperature":
            continue
        alpha = found["alpha"] if name.startswith("encoder.") else 1
        torch.testing.assert_close(tensor, start[name] + alpha * (tuned[name] - start[name]))


def test_a_finished_run_that_is_resumed_mixes_the_same_weights(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Its ``best/`` holds the mixture already; what is mixed again is what was fine-tuned."""
    recipe, run = make_recipe(training={"wise_ft": True, "learning_rate": 3.0, "select_by": "loss"}), tmp_path / "run"
    assert finetune(recipe, run)["wise_ft"]["alpha"] < 1
    expected = outcome_of(run)
    finetune(recipe, run, resume=True)
    assert outcome_of(run) == expected
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])  # now the last epoch is trained again
    finetune(recipe, run, resume=True)
    assert outcome_of(run) == expected


def test_damaged_fine_tuned_weights_are_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe, run = make_recipe(training={"wise_ft": True}), tmp_path / "run"
    finetune(recipe, run)
    path = run / "fine_tuned.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ToolkitError, match="damaged weights") as caught:
        finetune(recipe, run, resume=True)
    assert caught.value.where == str(path)


def test_wise_ft_of_the_fine_tuned_end_is_the_plain_run(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Its last candidate, alpha 1, has the plain run's validation figures."""
    plain = finetune(make_recipe(), tmp_path / "plain")
    found = finetune(make_recipe(training={"wise_ft": True}), tmp_path / "mixed")["wise_ft"]
    best = next(
        entry
        for entry in RunFolder(tmp_path / "plain").history()
        if entry["split"] == "validation" and entry["epoch"] == plain["best_epoch"]
    )
    assert found["tried"][-1]["loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert found["tried"][-1]["accuracy"] == best["accuracy"]


def test_wise_ft_of_a_head_alone_is_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"wise_ft": True}, model={"unfreeze_last": 0, "unfreeze": None})
    recipe = make_recipe(training={"wise_ft": True}, model={"unfreeze": ["head"]})
    with pytest.raises(ToolkitError, match="the head alone learns") as caught:
        finetune(recipe, tmp_path / "run")
    assert caught.value.where == "training.wise_ft"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "select_by",
    [
        *("accuracy", "auroc", "loss"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("balanced_accuracy", "macro_f1", "average_precision")
        ),
    ],
)
def test_the_epoch_that_is_kept_is_the_best_by_the_chosen_figure(
    make_recipe: Callable[..., Recipe], tmp_path: Path, select_by: str
) -> None:
    summary = finetune(
        make_recipe(training={"epochs": 3, "select_by": select_by, "learning_rate": 0.02}), tmp_path / "run"
    )
    entries = [entry for entry in RunFolder(tmp_path / "run").history() if entry["split"] == "validation"]
    sign = -1 if select_by == "loss" else 1
    best = max(entries, key=lambda entry: (sign * entry[select_by], -entry["loss"], -entry["epoch"]))
    assert summary["best_epoch"] == best["epoch"]
    assert summary["validation"][select_by] == pytest.approx(best[select_by], abs=1e-5) or select_by == "loss"


@pytest.mark.parametrize("patience", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_early_stopping_waits_so_many_epochs_also_through_a_resume(
    make_recipe: Callable[..., Recipe], tmp_path: Path, patience: int
) -> None:
    """A rate this small changes no accuracy and, with warm-up over all steps, hardly the loss: epochs stop to gain."""
    training = {"epochs": 12, "learning_rate": 0.3, "early_stopping": patience, "keep_last": 100, "select_by": "loss"}
    recipe = make_recipe(training=training)
    run = tmp_path / "run"
    summary = finetune(recipe, run)
    losses = [entry["loss"] for entry in RunFolder(run).history() if entry["split"] == "validation"]
    best, stopped = 0, 0
    for epoch, loss in enumerate(losses, 1):
        best = epoch if loss == min(losses[:epoch]) and losses.index(loss) + 1 == epoch else best
        stopped = epoch
        if epoch - best >= patience:
            break
    assert (summary["best_epoch"], summary["epochs"]) == (best, stopped)
    assert summary["epochs"] < 12
    expected = outcome_of(run)
    finetune(recipe, run, resume=True)
    assert outcome_of(run) == expected
    (run / "summary.json").unlink()
    last = sorted((run / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    finetune(recipe, run, resume=True)
    assert outcome_of(run) == expected
