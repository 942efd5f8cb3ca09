"""What a run says of its data before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe
from toolkit.training.explain import explain


@pytest.fixture
def data(color_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_data, tmp_path / "data"))


def said(recipe: Recipe, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, int]]:
    """Everything a run printed, in one line, and its images by split."""
    images = finetune(recipe, out)["images"]
    return " ".join(capsys.readouterr().err.split()), images


def test_a_run_says_what_is_odd_about_its_data(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original, copy = data / "train" / "red" / "03.png", data / "test" / "blue" / "[leak].png"
    shutil.copyfile(original, copy)
    (data / "train" / "red" / "@eaDir").mkdir()
    shutil.copyfile(original, data / "train" / "red" / "@eaDir" / "thumb.png")
    (data / "train" / "notes.txt").touch()
    for split in ("train", "val", "test"):
        (data / split / "RED").mkdir()
        for file in sorted((data / split / "red").glob("*.png"))[-3:]:
            file.rename(data / split / "RED" / file.name)
    recipe = make_recipe(data={"path": data}, model={"unfreeze_last": 0}, training={"epochs": 1})
    printed, images = said(recipe, tmp_path / "run", capsys)
    assert images["train"] == 35
    assert "left out: 2 files: 1 .txt, 1 @eaDir" in printed
    assert "warning: 1 images stand in more than one split, such as" in printed
    assert "their copies are left out: 1 from train" in printed
    assert "warning: 1 images have more than one label, such as" in printed
    assert "[leak].png (blue)" in printed
    assert "warning: classes 'RED' and 'red' differ only by case, blanks or Unicode form; are they one?" in printed
    assert "splits made here" not in printed


def test_a_run_says_which_splits_it_made_and_explain_counts_them(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data / "test")
    recipe = make_recipe(data={"path": data, "split_seed": 3}, model={"unfreeze_last": 0}, training={"epochs": 1})
    printed, images = said(recipe, tmp_path / "run", capsys)
    assert "splits made here: test (data.split_seed 3)" in printed
    assert "left out" not in printed
    assert "warning" not in printed
    assert explain(recipe, probe=False)["data"]["images"] == images
