"""What explain says is what a run then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.finetune import finetune, opened_trainer
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.recipe.reading import leaves, load_recipe, trace_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.training.explain import _probe, explain, rows_on_device

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"unfreeze_last": 1}, {"gradient_accumulation": 2, "layer_decay": 0.5}),
        ({"unfreeze": ["all"]}, {"batch_size": 5, "head_learning_rate": 0.01}),
        ({"unfreeze": ["head"]}, {"boundary_cache": {"enabled": True}, "ema_decay": 0.9}),
    ],
)
def test_it_is_what_the_run_then_does(
    make_recipe: Callable[..., Recipe], tmp_path: Path, model: dict[str, object], training: dict[str, object]
) -> None:
    recipe = make_recipe(model=model, training={"epochs": 1} | training)
    found = explain(recipe)
    assert list(tmp_path.iterdir()) == []
    summary = finetune(recipe, tmp_path / "run")
    assert found["data"]["images"] == summary["images"]
    assert [group["name"] for group in found["groups"] if group["learning_rate"]] == summary["trainable_groups"]
    for name in ("effective_batch", "steps", "parameters", "trainable_parameters"):
        assert found[name] == summary[name]
    assert found["steps_per_epoch"] == found["steps"]
    learns = 4 * summary["trainable_parameters"]
    assert found["memory_bytes"]["weights"] == 4 * summary["parameters"]
    assert found["memory_bytes"]["gradients"] == learns
    assert found["memory_bytes"]["optimizer_moments"] == 2 * learns
    assert found["memory_bytes"].get("running_average", 0) == (learns if recipe.training.ema_decay else 0)
    assert found["memory_bytes"]["activations"] > 0
    assert found["seconds"]["total"] == pytest.approx(sum(found["seconds"].values()) / 2)
    assert (found["seconds"]["filling_the_cache"] > 0) == recipe.training.boundary_cache.enabled


def test_a_cpu_has_no_memory_of_a_device_to_tell_of(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"epochs": 1})
    found, summary = explain(recipe)["memory_bytes"], finetune(recipe, tmp_path / "run")
    assert ("peak_device_bytes" in found) == ("peak_device_bytes" in summary) == torch.cuda.is_available()
    assert summary["peak_memory_bytes"] > 4 * summary["parameters"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_held_what_explain_counts(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Weights, gradients and moments lie there at once, and rows of a cache that fit."""
    recipe = make_recipe(training={"epochs": 2, "boundary_cache": {"enabled": True}})
    found, summary = explain(recipe)["memory_bytes"], finetune(recipe, tmp_path / "run")
    counted = found["weights"] + found["gradients"] + found["optimizer_moments"]
    assert found["cached_rows"] == sum(summary["boundary_cache_on_device"].values())
    assert found["peak_device_bytes"] >= counted
    assert set(summary["boundary_cache_on_device"]) == {"train", "validation"}
    assert summary["peak_device_bytes"] >= counted + sum(summary["boundary_cache_on_device"].values())


@pytest.mark.parametrize(("free", "kept"), [(10**9, ["train", "validation"]), (100_000, ["validation"]), (0, [])])
def test_rows_on_a_device_are_those_that_a_run_keeps_there(
    free: int, kept: list[str], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A run on a CPU, which takes its memory for a device's of so many free bytes; views count."""
    recipe = make_recipe(
        data={"augment": ["flip_horizontal"]}, training={"epochs": 1, "boundary_cache": {"enabled": True, "views": 2}}
    )
    with opened_trainer(recipe, tmp_path / "run") as trainer:
        trainer.boundary.free_device_bytes = lambda: free
        trainer.train()
        row = trainer.boundary._layout.row
        on_device = trainer.boundary.on_device
    images = {split: len(members) for split, members in trainer.data.splits.items()}
    assert rows_on_device(recipe.training.boundary_cache, images, row, free) == on_device
    assert list(on_device) == kept


def test_a_cpu_keeps_no_rows_and_the_probe_knows_their_shape(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(training={"boundary_cache": {"enabled": True}})
    classifier, processor = build_classifier(recipe.model, ["first", "second"], 0)
    assert _probe(classifier, processor, recipe, None).row == (17, 32)  # 4 x 4 patches and the class token
    assert ("cached_rows" in explain(recipe)["memory_bytes"]) == torch.cuda.is_available()


def test_a_trunk_in_another_precision_is_said_and_needs_something_frozen(make_recipe: Callable[..., Recipe]) -> None:
    training = {"trunk_precision": "int8"}
    assert explain(make_recipe(training=training), probe=False)["trunk_precision"] == "int8"
    with pytest.raises(ToolkitError, match="there is no trunk to run in int8"):
        explain(make_recipe(model={"unfreeze": ["all"]}, training=training), probe=False)


def test_rates_are_those_of_the_optimizer(make_recipe: Callable[..., Recipe]) -> None:
    training = {"learning_rate": 0.1, "layer_decay": 0.5, "head_learning_rate": 0.3}
    found = explain(make_recipe(model={"unfreeze_last": 2}, training=training), probe=False)
    rates = {group["name"]: group["learning_rate"] for group in found["groups"]}
    assert rates == {
        "embeddings": None,
        "layers.0": None,
        "layers.1": pytest.approx(0.05),
        "layers.2": pytest.approx(0.1),
        "post_norm": pytest.approx(0.1),
        "projection": None,
        "head": 0.3,
    }


def test_activations_grow_with_the_batch_and_shrink_with_recomputation(make_recipe: Callable[..., Recipe]) -> None:
    kept = {}
    for name, training in {
        "plain": {"batch_size": 8},
        "twice": {"batch_size": 16},
        "recomputed": {"batch_size": 8, "gradient_checkpointing": True},
    }.items():
        kept[name] = explain(make_recipe(model={"unfreeze": "all"}, training=training))["memory_bytes"]["activations"]
    assert kept["twice"] == pytest.approx(2 * kept["plain"], rel=0.1)
    assert kept["recomputed"] < 0.6 * kept["plain"]


def test_processes_share_a_step(make_recipe: Callable[..., Recipe]) -> None:
    found = explain(make_recipe(training={"batch_size": 4, "gradient_accumulation": 3}), processes=2, probe=False)
    assert (found["effective_batch"], found["steps_per_epoch"]) == (24, 2)
    assert found["seconds"] is None


def test_without_the_data_the_rest_is_said(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    found = explain(make_recipe(data={"path": tmp_path / "missing"}))
    assert "no such data folder" in found["data"]["problem"]
    assert (found["data"]["images"], found["steps"], found["seconds"]) == (None, None, None)
    assert found["trainable_parameters"] > 0


def test_data_that_is_there_but_damaged_is_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ToolkitError, match="no class folders"):
        explain(make_recipe(data={"path": tmp_path / "data"}))


def test_it_leaves_the_model_of_a_later_run_alone(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"epochs": 1})
    first = finetune(recipe, tmp_path / "first")
    explain(recipe)
    assert finetune(recipe, tmp_path / "second")["test"] == first["test"]
    build_classifier(recipe.model, ["a", "b"], 0)


def test_origins_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    content = {
        "data": {"path": "x", "columns": {"label": "finding"}},
        "model": {"unfreeze_last": 2},
        "training": {"epochs": 3, "class_weights": {"a": 2.0, "b": 1.0}},
    }
    path.write_text(yaml.safe_dump(content))
    overrides = ["training.epochs=5", "model.unfreeze=[head]", "training.boundary_cache.enabled=true"]
    recipe, origins = trace_recipe(path, overrides)
    assert recipe == load_recipe(path, overrides)
    assert set(origins) == set(leaves(recipe))
    assert {key: origin for key, origin in origins.items() if origin != "default"} == {
        "data.path": "recipe",
        "data.columns.label": "recipe",
        "model.unfreeze": "override",
        "training.epochs": "override",
        "training.class_weights": "recipe",
        "training.boundary_cache.enabled": "override",
    }


def test_the_command_prints_one_object_or_tables(
    make_recipe: Callable[..., Recipe], in_process: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(make_recipe().as_yaml())
    command = ["recipes", "explain", path, "training.epochs=7"]
    done = in_process(*command, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["keys"]["training.epochs"] == {"value": 7, "origin": "override"}
    assert found["steps"] == 7 * found["steps_per_epoch"]
    done = in_process(*command, "--no-probe")
    assert done.returncode == 0, done.stderr
    assert "effective batch 8; 5 steps an epoch, 35 in 7 epochs" in done.stdout
    bad = in_process(*command, "training.epoch=1")
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
