"""What holds for images of one class holds for every input and task: resumed, and shared by two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from colour_words import write_label_sets, write_pairs, write_texts
from interrupted_runs import EVERY_STEP, cut_back, outcome_of
from safetensors.torch import load_file

from recipes.finetune import finetune
from tests.training.test_processes import ROOT, launch
from toolkit.recipe.recipe import Recipe

KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "image-text": (
        write_pairs,
        {"columns": {"text": "caption"}},
        {"inputs": ["image", "text"], "fusion": {"type": "gated", "modality_dropout": 0.2}},
    ),
    "text": (write_texts, {"columns": {"path": None, "text": "caption"}}, {"inputs": ["text"]}),
    "multi-label": (write_label_sets, {"columns": {"labels": "labels"}}, {"task": "multi-label"}),
}

SOME, OTHERS = (lambda _: (2,)), (lambda steps: (0, steps - 1, steps))
"""After which of the steps a run was stopped."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifest(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = KINDS[kind][0](tmp_path_factory.mktemp(kind))
    return written


def recipe_of(kind: str, manifest: Path, encoder: Path, **training: Any) -> Recipe:
    _, data, model = KINDS[kind]
    head = {"type": "mlp", "hidden_size": 16, "dropout": 0.0}
    return Recipe.model_validate(
        {
            "data": {"path": manifest} | data,
            "model": {"encoder": str(encoder), "unfreeze_last": 1, "head": head} | model,
            "training": {"epochs": 2, "learning_rate": 1e-3, "boundary_cache": {"enabled": False}} | training,
            "tracking": {"trackers": [], "plots": False},
        }
    )


def without_dropout(recipe: Recipe) -> Recipe:
    """What is dropped is drawn for each micro-batch."""
    fusion = recipe.model.fusion.model_copy(update={"modality_dropout": 0.0})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"fusion": fusion})})


@pytest.mark.parametrize("stops", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"])
def test_a_run_resumed_after_any_step_equals_the_straight_one(
    stops: Callable[[int], tuple[int, ...]], kind: str, manifest: Path, text_encoders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(kind, manifest, text_encoders["clip"], batch_size=16, **EVERY_STEP)
    steps = finetune(recipe, tmp_path / "straight")["steps"]
    for step in stops(steps):
        cut_back(tmp_path / "straight", step, tmp_path / f"cut-{step}")
        finetune(recipe, tmp_path / f"cut-{step}", resume=True)
        assert outcome_of(tmp_path / f"cut-{step}") == outcome_of(tmp_path / "straight"), step


@pytest.mark.parametrize(
    "kind",
    ["image-text", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("text", "multi-label"))],
    indirect=True,
)
def test_two_processes_learn_what_one_process_learns(
    kind: str, manifest: Path, text_encoders: dict[str, Path], tmp_path: Path
) -> None:
    """Twice the processes with half the batch each are the same steps on the same samples, where nothing is dropped.

    Pairs of an image and a text come from a cache that both processes fill.
    """
    cache = {"boundary_cache": {"enabled": kind == "image-text"}}
    whole, recipe = (
        without_dropout(recipe_of(kind, manifest, text_encoders["clip"], batch_size=size, **cache)) for size in (12, 6)
    )
    one = finetune(whole, tmp_path / "one")
    launched = launch(recipe, tmp_path / "two", "--config_file", str(ROOT / "recipes/accelerate/cpu_2_processes.yaml"))
    assert launched.returncode == 0, launched.stderr
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert (two["processes"], two["steps"]) == (2, one["steps"])
    for split in ("train", "validation", "test"):
        assert two[split]["images"] == one[split]["images"]
        assert two[split]["loss"] == pytest.approx(one[split]["loss"], abs=1e-3)
    weights = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=5e-4, rtol=1e-3)
