from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.finetune import finetune
from toolkit.config import Recipe
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, load_classifier
from toolkit.training.metrics import split_metrics

TIMES = {"epoch_seconds", "images_per_second", "data_wait_share", "time_shares", "worker_seconds"}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "model.safetensors")


def history_of(run: Path) -> list[dict[str, object]]:
    """Lines of ``metrics.jsonl`` without the times, which differ from run to run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def test_two_runs_of_one_recipe_and_seed_write_the_same_bytes(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(data={"augment": ["crop", "flip_horizontal"]})
    for name in "ab":
        finetune(recipe, tmp_path / name)
    first, second = ((tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert history_of(tmp_path / "a") == history_of(tmp_path / "b")


def test_another_seed_gives_other_weights(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for seed in (1, 2):
        finetune(make_recipe(training={"seed": seed, "epochs": 1}), tmp_path / str(seed))
    assert not weights_of(tmp_path / "1")["head.0.weight"].equal(weights_of(tmp_path / "2")["head.0.weight"])


def test_only_the_chosen_groups_change(finished_run: Path, make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(finished_run.name)
    before, _ = build_classifier(recipe.model, ["blue", "green", "red"], recipe.training.seed)
    after, _ = load_classifier(finished_run / "best")
    for old, new in zip(before.groups, after.groups, strict=True):
        same = [a.equal(b) for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert any(same) == all(same) == (old.name not in ("layers.2", "post_norm", "head")), old.name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_equals_a_straight_one(
    accumulation: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(
        training={"epochs": 3, "gradient_accumulation": accumulation, "scheduler": "step", "step_epochs": 2}
    )
    finetune(recipe, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    last = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    finetune(recipe, tmp_path / "cut", resume=True)
    assert history_of(tmp_path / "cut") == history_of(tmp_path / "straight")
    for file in ("model.safetensors", "optimizer.safetensors"):
        resumed, straight = (
            (tmp_path / run / "checkpoints" / last.name / file).read_bytes() for run in ("cut", "straight")
        )
        assert resumed == straight, file
    assert (tmp_path / "cut" / "best" / "model.safetensors").read_bytes() == (
        tmp_path / "straight" / "best" / "model.safetensors"
    ).read_bytes()


def test_resuming_with_another_recipe_is_refused(
    make_recipe: Callable[..., Recipe], finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(ToolkitError, match="another recipe"):
        finetune(make_recipe(finished_run.name, training={"learning_rate": 0.5}), tmp_path / "run", resume=True)


def test_a_flipped_checkpoint_is_refused(
    make_recipe: Callable[..., Recipe], finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    file = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ToolkitError, match="damaged checkpoint"):
        finetune(make_recipe(finished_run.name, tracking={"tensorboard": True}), tmp_path / "run", resume=True)


def test_a_run_is_not_overwritten_unless_forced(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"epochs": 1})
    finetune(recipe, tmp_path / "run")
    with pytest.raises(ToolkitError, match="there already"):
        finetune(recipe, tmp_path / "run")
    finetune(recipe, tmp_path / "run", force=True)
    assert len([e for e in history_of(tmp_path / "run") if e["split"] == "validation"]) == 1


def test_the_best_epoch_is_the_one_with_the_best_validation_accuracy_then_loss(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    validation = [entry for entry in history_of(finished_run) if entry["split"] == "validation"]
    best = max(validation, key=lambda entry: (entry["accuracy"], -entry["loss"]))  # type: ignore[operator]
    assert summary["best_epoch"] == best["epoch"]
    assert summary["validation"]["accuracy"] == best["accuracy"]


def test_the_run_folder_holds_what_the_contract_says(finished_run: Path) -> None:
    for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "summary.json", "plots/curves.png"):
        assert (finished_run / name).stat().st_size > 0, name
    assert {file.name for file in (finished_run / "best").iterdir()} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "labels.json",
    }
    assert list(finished_run.rglob("events.out.tfevents*"))
    assert [path.name for path in sorted((finished_run / "checkpoints").iterdir())] == [
        "step-00000005",
        "step-00000010",
    ]
    keys = {"epoch", "split", "loss", "accuracy", "epoch_seconds", "images_per_second", "data_wait_share"}
    epochs = [entry for line in (finished_run / "metrics.jsonl").open() if keys <= set(entry := json.loads(line))]
    assert [(entry["epoch"], entry["split"]) for entry in epochs] == [
        (e, s) for e in (1, 2) for s in ("train", "validation")
    ]
    summary = json.loads((finished_run / "summary.json").read_text())
    assert summary["images"] == {"train": 36, "validation": 15, "test": 21}
    assert {split: summary[split]["images"] for split in summary["images"]} == summary["images"]


def test_the_summary_is_what_the_saved_classifier_gives(finished_run: Path, make_recipe: Callable[..., Recipe]) -> None:
    from export.run import Run

    run = Run(finished_run)
    examples = run.data.splits["test"]
    pixel_values = run.processor([_open(example.path) for example in examples], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = run.classifier.reference_logits(pixel_values)
    labels = torch.tensor([example.label for example in examples])
    figures = split_metrics(logits, labels, float(run.classifier.temperature))
    assert figures == pytest.approx(run.summary["test"], abs=1e-5)


def test_bf16_keeps_the_weights_in_float32_and_learns(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    summary = finetune(make_recipe(training={"mixed_precision": "bf16", "epochs": 4}), tmp_path / "run")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "run").values()} == {torch.float32}
    losses = [entry["loss"] for entry in history_of(tmp_path / "run") if entry["split"] == "validation"]
    assert losses[-1] < losses[0]
    assert summary["test"]["accuracy"] > summary["test"]["majority_class_accuracy"]


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_kept(
    log_every: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    training = {"learning_rate": 1e30, "max_gradient_norm": 1e30, "epochs": 5}
    recipe = make_recipe(training=training, tracking={"log_every": log_every})
    with pytest.raises(ToolkitError, match="loss is"):
        finetune(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()
    assert all("NaN" not in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def _open(path: Path) -> object:
    from PIL import Image

    return Image.open(path)
