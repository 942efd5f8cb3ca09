"""Errors over a recipe say where a value was written and which key is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.recipe.key_hints import SYNONYMS, meant
from toolkit.recipe.origins import naming_origins
from toolkit.recipe.reading import all_keys, leaves, load_data_config, load_recipe

RECIPE = """\
# a comment

data:
  path: images
  augment: [crop]
model:
  unfreeze_last: 1
  head:
    hidden_size: 0

training:
  epochs: 3
  lr: 1.0e-4
"""
SOUND = RECIPE.replace("  lr: 1.0e-4\n", "").replace("hidden_size: 0", "hidden_size: 8")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.yaml"
    path.write_text(SOUND)
    return path


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("training.lr", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("optimizer.lr", "training.learning_rate"),
        ("training.bs", "training.batch_size"),
        ("training.batch", "training.batch_size"),
        ("model.batch-size", "training.batch_size"),
        ("epochs", "training.epochs"),
        ("training.epoch", "training.epochs"),
        ("training.num_epochs", "training.epochs"),
        ("training.wd", "training.weight_decay"),
        ("training.patience", "training.early_stopping"),
        ("training.learning_rat", "training.learning_rate"),
        ("learning_rat", "training.learning_rate"),
        ("training.LR", "training.learning_rate"),
        ("trainig", "training"),
        ("model.name", None),
        ("model.backbone", "model.encoder"),
        ("model.dropout", "model.head.dropout"),
        ("training.path", "data.path"),
        ("data.columns.lable", "data.columns.label"),
        ("training.xyzzy", None),
    ],
)
def test_the_key_that_is_meant_is_found(written: str, key: str | None) -> None:
    assert meant(written, all_keys()) == key


def test_synonyms_are_of_keys_that_there_are_and_of_one_each() -> None:
    assert set(SYNONYMS) <= set(all_keys())
    names = [name for written in SYNONYMS.values() for name in written.split()]
    assert len(names) == len(set(names))


def test_a_problem_says_its_line_or_its_override(recipe: Path) -> None:
    with pytest.raises(ToolkitError) as caught:
        load_recipe(recipe, ["training.epochs=0", "data.augment=[crp]"])
    first, second, third, fourth = caught.value.what.split("; ")
    assert first.startswith("data.augment.0: ")
    assert first.endswith(" (override data.augment=[crp])")
    assert second.startswith("model.head.hidden_size: ")
    assert second.endswith(" (line 9)")
    assert third.startswith("training.epochs: ")
    assert third.endswith(" (override training.epochs=0)")
    assert fourth == "unknown key 'training.lr', did you mean 'learning_rate'? (line 13)"


def test_the_last_override_of_a_key_is_the_one_that_is_named(sound: Path) -> None:
    with pytest.raises(ToolkitError, match=r"\(override training.epochs=-2\)"):
        load_recipe(sound, ["training.epochs=0", "training.epochs=-2"])


def test_keys_that_contradict_each_other_say_where_each_was_written(sound: Path) -> None:
    with pytest.raises(ToolkitError, match=r"\(training.boundary_cache: override training.boundary_cache.en"):
        load_recipe(sound, ["training.cutmix=1", "training.boundary_cache.enabled=true"])
    both = sound.with_name("both.yaml")
    both.write_text(SOUND.replace("unfreeze_last: 1", "unfreeze_last: 1\n  unfreeze: [head]"))
    with pytest.raises(ToolkitError, match=r"\(unfreeze_last: line 7, unfreeze: line 8\)"):
        load_recipe(both)


@pytest.mark.parametrize("written", ["lr=1e-4", "bs=8", "epochs=3"])
def test_an_override_without_a_section_is_given_the_one_that_is_meant(sound: Path, written: str) -> None:
    name, _, value = written.partition("=")
    with pytest.raises(ToolkitError, match="is no override") as caught:
        load_recipe(sound, [written])
    assert caught.value.fix == f"write {meant(name, all_keys())}={value}"


@pytest.mark.parametrize("prefix", ["", "data."])
def test_settings_of_data_are_taken_and_refused_with_or_without_the_section(prefix: str, tmp_path: Path) -> None:
    assert load_data_config(tmp_path, [f"{prefix}columns.path=file"]).columns.path == "file"
    with pytest.raises(ToolkitError) as caught:
        load_data_config(tmp_path, [f"{prefix}columns.pth=file"])
    assert caught.value.what == f"unknown key 'columns.pth', did you mean 'path'? (override {prefix}columns.pth=file)"


@pytest.mark.parametrize(
    ("where", "overrides", "then"),
    [
        ("model.unfreeze_last", [], "model.unfreeze_last, {path}, line 7"),
        ("model.unfreeze_last", ["model.unfreeze_last=9"], "model.unfreeze_last, override model.unfreeze_last=9"),
        ("model.encoder: x/y", ["model.encoder=x/y"], "model.encoder: x/y, override model.encoder=x/y"),
        ("model.encoder: x/y", [], "model.encoder: x/y"),
        ("{data}", [], "{data}, data.path, {path}, line 4"),
        ("{data}", ["data.path=images"], "{data}, data.path, override data.path=images"),
        ("somewhere/else", [], "somewhere/else"),
    ],
)
def test_what_a_run_complains_of_later_says_it_too(sound: Path, where: str, overrides: list[str], then: str) -> None:
    values = leaves(load_recipe(sound, overrides))
    names = {"path": sound, "data": values["data.path"]}
    with pytest.raises(ToolkitError) as caught, naming_origins(sound, overrides, values):
        raise ToolkitError("a mistake", where=where.format(**names), fix="mend it")
    assert (caught.value.what, caught.value.fix) == ("a mistake", "mend it")
    assert caught.value.where == then.format(**names)
