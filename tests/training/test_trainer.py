from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.metrics.split import METRICS, SplitScores
from toolkit.models.build import build_classifier, load_classifier
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.optimizer import learning_rate_factor


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "model.safetensors")


def test_two_runs_of_one_recipe_and_seed_write_the_same_bytes(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(data={"augment": ["crop", "flip_horizontal"]})
    for name in "ab":
        finetune(recipe, tmp_path / name)
    first, second = ((tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert RunFolder(tmp_path / "a").history(times=False) == RunFolder(tmp_path / "b").history(times=False)


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


@pytest.mark.parametrize(("batch_size", "accumulation"), [(6, 2), (4, 3), (5, 2)])
def test_accumulated_batches_make_the_step_of_one_large_batch(
    batch_size: int, accumulation: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """In the short last step too; 36 images don't divide by ten."""
    model = {"unfreeze_last": 1, "head": {"dropout": 0.0}}
    for name, size, count in (("large", batch_size * accumulation, 1), ("small", batch_size, accumulation)):
        training = {"batch_size": size, "gradient_accumulation": count, "epochs": 2}
        finetune(make_recipe(model=model, training=training), tmp_path / name)
    large, small = (weights_of(tmp_path / name) for name in ("large", "small"))
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, atol=1e-4, rtol=1e-3)


def test_layers_that_compute_twice_learn_the_same_to_the_bit(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for name, recompute in (("kept", False), ("twice", True)):
        training = {"gradient_checkpointing": recompute}
        finetune(make_recipe(model={"unfreeze_last": 2}, training=training), tmp_path / name)
    files = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("kept", "twice")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_keeps_its_names(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on CPUs")
    model = {"unfreeze_last": 1, "head": {"dropout": 0.0}}  # a compiled dropout draws other masks
    for name, compiled in (("eager", False), ("compiled", True)):
        training = {"compile": compiled, "epochs": 1, "batch_size": 12}
        finetune(make_recipe(model=model, training=training), tmp_path / name)
    assert weights_of(tmp_path / "eager").keys() == weights_of(tmp_path / "compiled").keys()
    losses = [[entry["loss"] for entry in RunFolder(tmp_path / name).history()] for name in ("eager", "compiled")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(37, 1), (10, 4)])
def test_a_step_of_more_images_than_there_are_is_refused(
    batch_size: int, accumulation: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"batch_size": batch_size, "gradient_accumulation": accumulation})
    with pytest.raises(ToolkitError, match="is more than the 36 training images") as caught:
        finetune(recipe, tmp_path / "run")
    assert caught.value.where == "training.batch_size"
    assert not (tmp_path / "run").exists()


def test_the_times_of_an_epoch_are_shares_of_it_and_the_run_says_what_would_help(finished_run: Path) -> None:
    epochs = [entry for line in (finished_run / "metrics.jsonl").open() if "time_shares" in (entry := json.loads(line))]
    assert len(epochs) == 4
    for entry in epochs:
        assert sum(entry["time_shares"].values()) == pytest.approx(1)
        waited = entry["time_shares"]["data_wait"] + entry["time_shares"]["preprocessing"]
        assert entry["data_wait_share"] == pytest.approx(waited)
    assert " of the time went into " in json.loads((finished_run / "summary.json").read_text())["advice"]


def test_resuming_with_another_recipe_is_refused(
    make_recipe: Callable[..., Recipe], finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(ToolkitError, match="another recipe"):
        finetune(make_recipe(finished_run.name, training={"learning_rate": 0.5}), tmp_path / "run", resume=True)


def test_a_run_is_not_overwritten_unless_forced(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"epochs": 1})
    finetune(recipe, tmp_path / "run")
    with pytest.raises(ToolkitError, match="there already"):
        finetune(recipe, tmp_path / "run")
    finetune(recipe, tmp_path / "run", force=True)
    assert len([e for e in RunFolder(tmp_path / "run").history() if e["split"] == "validation"]) == 1


def test_the_best_epoch_is_the_one_with_the_best_validation_accuracy_then_loss(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    validation = [entry for entry in RunFolder(finished_run).history() if entry["split"] == "validation"]
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
    from toolkit.runs.finished_run import Run

    run = Run(finished_run)
    examples = run.data.splits["test"]
    pixel_values = run.processor([_open(example.path) for example in examples], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = run.classifier.reference_logits(pixel_values)
    labels = torch.tensor([example.label for example in examples])
    temperature = float(run.classifier.temperature)
    calibrated, as_trained = SplitScores(logits, labels, temperature), SplitScores(logits, labels)
    test, metrics = run.summary["test"], calibrated.metrics()
    assert metrics == pytest.approx({name: test[name] for name in metrics}, abs=1e-5)
    for name, interval in calibrated.intervals().items():
        assert test["intervals"][name] == pytest.approx(interval, abs=1e-4)
        assert interval[0] <= metrics[name] <= interval[1]
    for name, mine in calibrated.class_metrics(run.data.classes).items():
        assert test["per_class"][name] == pytest.approx(mine)
    before = run.summary["uncalibrated"]["test"]
    for name, value in as_trained.metrics(("loss", "nll", "expected_calibration_error")).items():
        assert before[name] == pytest.approx(value, abs=1e-5)
        assert before["intervals"][name] == pytest.approx(as_trained.intervals([name])[name], abs=1e-4)
    low, high = run.summary["temperature_interval"]
    assert low < run.summary["temperature"] < high
    assert "15 validation images" in run.summary["temperature_note"]
    matrix = np.array(run.summary["confusion_matrix"])
    assert matrix.sum() == 21
    assert np.trace(matrix) == round(21 * test["accuracy"])
    assert sum(each["images"] for each in run.summary["confusions"]) == 21 - np.trace(matrix)


def test_logged_rates_are_those_that_the_step_used(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    training = {"epochs": 2, "learning_rate": 1e-3, "head_learning_rate": 1e-2, "layer_decay": 0.5, "warmup_share": 0.2}
    recipe = make_recipe(model={"unfreeze_last": 2}, training=training, tracking={"log_every": 1, "trackers": ["csv"]})
    finetune(recipe, tmp_path / "run")
    steps = [entry for entry in RunFolder(tmp_path / "run").history() if "learning_rates" in entry]
    assert len(steps) == 2 * 5  # 36 images, 8 a step
    peaks = {"layers.1": 5e-4, "layers.2": 1e-3, "post_norm": 1e-3, "head": 1e-2}
    for place, entry in enumerate(steps):
        factor = learning_rate_factor(recipe.training, len(steps) // 2, place)
        assert entry["learning_rates"] == pytest.approx({name: peak * factor for name, peak in peaks.items()})
        assert entry["learning_rate"] == entry["learning_rates"]["head"]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {f"learning_rate/{name}" for name in peaks} <= names


def test_the_training_split_is_scored_from_the_cache_with_the_same_result(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    plain = finetune(make_recipe(), tmp_path / "plain")
    cached = finetune(make_recipe(training={"boundary_cache": {"enabled": True}}), tmp_path / "cached")
    for split in ("train", "validation", "test"):
        metrics = {name: plain[split][name] for name in METRICS}
        assert {name: cached[split][name] for name in METRICS} == pytest.approx(metrics, rel=1e-4), split


def test_a_large_table_holds_the_likeliest_classes(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.training.final_evaluation.DENSE_CELLS", 10)
    monkeypatch.setattr("toolkit.metrics.confusions.DENSE_CLASSES", 2)
    monkeypatch.setattr("toolkit.training.final_evaluation.LIKELIEST", 2)
    summary = finetune(make_recipe(), tmp_path / "run")
    assert summary["confusion_matrix"] is None
    with (tmp_path / "run" / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[5:] == ["class 1", "probability 1", "class 2", "probability 2"]
    for row in rows:
        assert row["class 1"] == row["predicted"]
        assert float(row["probability 1"]) == pytest.approx(float(row["probability"]), rel=1e-5)
        assert 0 <= float(row["probability 2"]) <= float(row["probability 1"])


def test_bf16_keeps_the_weights_in_float32_and_learns(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    summary = finetune(make_recipe(training={"mixed_precision": "bf16", "epochs": 4}), tmp_path / "run")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "run").values()} == {torch.float32}
    losses = [entry["loss"] for entry in RunFolder(tmp_path / "run").history() if entry["split"] == "validation"]
    assert losses[-1] < losses[0]
    assert summary["test"]["accuracy"] > summary["test"]["majority_class_accuracy"]


@pytest.mark.parametrize("log_every", [1, 1000])
def test_what_is_not_finite_stops_the_run_with_step_images_and_last_good_checkpoint(
    log_every: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A rate of 1e30 leaves weights after which the second step's losses are not finite."""
    training = {"learning_rate": 1e30, "max_gradient_norm": 1e30, "epochs": 5, "warmup_share": 0.0}
    recipe = make_recipe(training=training, tracking={"log_every": log_every})
    with pytest.raises(ToolkitError, match=r"the loss is (nan|inf) at step 2 for train/\w+/\d+\.png, ") as caught:
        finetune(recipe, tmp_path / "run")
    assert "the last good checkpoint is step-00000000" in caught.value.fix
    assert not (tmp_path / "run" / "best").exists()
    assert all("NaN" not in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def _open(path: Path) -> object:
    from PIL import Image

    return Image.open(path)
