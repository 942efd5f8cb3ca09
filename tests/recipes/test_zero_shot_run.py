"""Zero-shot from the command line's function to a proven bundle, with and without images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import toolkit
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run

LABELS = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return toolkit.zero_shot("tiny-clip", LABELS, out=tmp_path_factory.mktemp("zero") / "run")


def test_a_run_without_images_is_proven_on_generated_ones(run: Run, tmp_path: Path) -> None:
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32,fp16")
    for precision in ("fp32", "fp16"):
        entry = bundle.parity["results"][precision]["cpu"]
        assert entry["passed"]
        assert entry["images_from"].startswith("generated images")
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text("utf-8")
    assert "None: the run has no labelled images." in card
    assert "the head is the text embeddings of the labels" in card
    with pytest.raises(ToolkitError, match="int8 is fitted to images, and the run has none"):
        toolkit.export(run, out=tmp_path / "int8", precision="int8")


def test_a_folder_of_images_serves_without_labels(run: Run, color_data: Path, tmp_path: Path) -> None:
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32,int8", data=color_data)
    entries = bundle.parity["results"]
    assert entries["int8"]["cpu"]["passed"]
    assert entries["fp32"]["cpu"]["images_from"] == f"{color_data}, without labels"
    assert entries["fp32"]["cpu"]["images"] == 48  # two thirds of 72; the others calibrate
    again = toolkit.parity(bundle, data=color_data / "train" / "red")
    assert again["results"]["fp32"]["cpu"]["passed"]


def test_labelled_images_calibrate_and_measure(color_data: Path, tmp_path: Path) -> None:
    run = toolkit.zero_shot("tiny-clip", out=tmp_path / "run", templates=["a {} square"], data=color_data)
    assert run.classifier.labels == LABELS
    assert run.summary["temperature"] == float(run.classifier.temperature) != 1
    assert run.summary["test"]["images"] == 21
    assert (tmp_path / "run" / "plots" / "confusion_matrix.png").is_file()
    assert not (tmp_path / "run" / "plots" / "curves.png").exists()
    bundle = toolkit.export(run, out=tmp_path / "bundle")
    assert bundle.parity["results"]["fp32"]["cpu"]["passed"]
    assert bundle.parity["results"]["fp32"]["cpu"]["images_from"].startswith("held-out images")
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_bytes())["provenance"]["figures"]["test"]


def test_step_0_of_a_text_initialised_head_is_zero_shot(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    zero = toolkit.zero_shot("tiny-clip", out=tmp_path / "zero", templates=["a {} square"], data=color_data)
    head = {"type": "cosine", "init": "text", "templates": ["a {} square"]}
    recipe = make_recipe(
        "clip",
        model={"encoder": "tiny-clip", "head": head, "unfreeze_last": 1},
        training={"epochs": 1, "learning_rate": 1e-30, "wise_ft": True},
    )
    tuned = toolkit.finetune(recipe, out=tmp_path / "tuned")
    for name, weight in zero.classifier.state_dict().items():
        if name != "temperature":
            assert torch.equal(weight, tuned.classifier.state_dict()[name]), name
    assert tuned.summary["test"]["accuracy"] == zero.summary["test"]["accuracy"]
    assert {entry["accuracy"] for entry in tuned.summary["wise_ft"]["tried"]} == {
        zero.summary["validation"]["accuracy"]
    }


def test_a_fine_tuned_cosine_head_is_proven(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe("clip", model={"head": {"type": "cosine"}})
    run = toolkit.finetune(recipe, out=tmp_path / "run")
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32,fp16,int8")
    assert all(by_provider["cpu"]["passed"] for by_provider in bundle.parity["results"].values())
    assert toolkit.load(bundle.path).predict(tmp_path / "bundle" / "golden" / "000.png").label in LABELS
