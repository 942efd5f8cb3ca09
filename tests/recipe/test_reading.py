from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from toolkit.errors import ToolkitError
from toolkit.recipe.reading import load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.section import Section

SMALLEST: dict[str, Any] = {"data": {"path": "images"}, "model": {"unfreeze_last": 1}, "training": {"epochs": 2}}
SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "configs").rglob("*.yaml"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    return path


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    below = [field.annotation for field in model.model_fields.values()]
    nested = [kind for kind in below if isinstance(kind, type) and issubclass(kind, Section)]
    return [model, *(section for kind in nested for section in sections(kind))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_survives_being_written_and_read(path: Path, tmp_path: Path) -> None:
    loaded = load_recipe(path)
    (tmp_path / "resolved.yaml").write_text(loaded.as_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == loaded


def test_there_are_shipped_recipes() -> None:
    assert SHIPPED


def test_a_resolved_recipe_holds_every_key_but_those_of_tasks_that_it_does_not_have(recipe: Path) -> None:
    resolved = yaml.safe_load(load_recipe(recipe).as_yaml())
    assert set(resolved) == set(Recipe.model_fields)
    for name, field in Recipe.model_fields.items():
        keys: dict[str, FieldInfo] = field.annotation.model_fields  # type: ignore[union-attr]
        assert set(resolved[name]) == {key for key, each in keys.items() if each.exclude_if is None}


def test_every_key_is_described() -> None:
    leaves = [(model.__name__, name, field) for model in sections(Recipe) for name, field in model.model_fields.items()]
    undescribed = [
        f"{model}.{name}"
        for model, name, field in leaves
        if not field.description and not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    ]
    assert undescribed == []


def test_a_recipe_is_immutable(recipe: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe(recipe).training.epochs = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"'training\.epoch', did you mean 'epochs'\?"),
        ("data.pth=x", r"'data\.pth', did you mean 'path'\?"),
        ("model.head.hiden_size=3", r"'model\.head\.hiden_size', did you mean 'hidden_size'\?"),
        ("trainig.epochs=3", r"'trainig', did you mean 'training'\?"),
        (
            "model.head.xyzzy=3",
            r"'model\.head\.xyzzy', valid keys: type, init, templates, texts, cached, hidden_size, dropout",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        load_recipe(recipe, [override])


def test_all_problems_are_in_one_message(recipe: Path) -> None:
    overrides = ["training.epochs=0", "training.learning_rat=1", "model.head.dropout=2", "data.on_bad_image=ignore"]
    with pytest.raises(ToolkitError) as caught:
        load_recipe(recipe, [*overrides, "model.unfreeze=[]"])
    for key in ("training.epochs", "learning_rate", "model.head.dropout", "data.on_bad_image", "model.unfreeze"):
        assert key in caught.value.what
    assert caught.value.where == str(recipe)
    assert "\n" not in caught.value.as_line()


def test_missing_sections_and_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {}\nmodel: {unfreeze_last: 1}\n")
    with pytest.raises(ToolkitError) as caught:
        load_recipe(path)
    assert {"data.path is missing", "training is missing"} <= set(caught.value.what.split("; "))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=7", 7),
        ("training.learning_rate=1e-5", 1e-5),
        ("training.head_learning_rate=null", None),
        ("training.mixed_precision=no", "no"),
        ("training.mixed_precision=bf16", "bf16"),
        ("tracking.trackers=[csv]", ["csv"]),
        ("data.path=a=b", Path("a=b").absolute()),
        ("data.augment=[crop, flip_vertical]", ["crop", "flip_vertical"]),
        ("model.unfreeze=[all]", ["all"]),
        ("model.head.type=linear", "linear"),
    ],
)
def test_an_override_gives_what_the_same_key_in_the_file_gives(
    recipe: Path, tmp_path: Path, override: str, value: object
) -> None:
    name, _, text = override.partition("=")
    *above, key = name.split(".")
    content = {section: dict(keys) for section, keys in SMALLEST.items()}
    if key == "unfreeze":
        del content["model"]["unfreeze_last"]
    node = content
    for section in above:
        node = node.setdefault(section, {})
    node[key] = yaml.safe_load(text)
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(content))

    overridden = load_recipe(recipe, [override])
    assert overridden == load_recipe(tmp_path / "written.yaml")
    got: Any = overridden
    for part in (*above, key):
        got = getattr(got, part)
    assert got == value
    assert type(got) is type(value)


def test_a_data_path_is_absolute_wherever_the_recipe_is_read_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_recipe(recipe, ["data.path=~/images"])
    assert loaded.data.path == Path.home() / "images"
    loaded = load_recipe(recipe)
    assert loaded.data.path == Path.cwd() / SMALLEST["data"]["path"]
    (tmp_path / "resolved.yaml").write_text(loaded.as_yaml())
    monkeypatch.chdir(tmp_path)
    assert load_recipe(tmp_path / "resolved.yaml") == loaded


def test_a_data_path_below_the_home_of_nobody_is_the_users_to_mend(recipe: Path) -> None:
    with pytest.raises(ToolkitError, match=r"data\.path"):
        load_recipe(recipe, ["data.path=~no-such-user-here/images"])


def test_the_last_override_of_a_key_wins(recipe: Path) -> None:
    assert load_recipe(recipe, ["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=3", "is no override"),
        ("training.epochs", "is no override"),
        ("training.=3", "is no override"),
        (".epochs=3", "is no override"),
        ("data.path.deeper=3", "'path' holds no keys"),
        ("training.epochs=[3", "no YAML"),
    ],
)
def test_a_malformed_override_is_refused(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        load_recipe(recipe, [override])


@pytest.mark.parametrize("model", [{}, {"unfreeze_last": 1, "unfreeze": ["all"]}], ids=["neither", "both"])
def test_exactly_one_of_unfreeze_and_unfreeze_last_is_given(tmp_path: Path, model: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | {"model": model}))
    with pytest.raises(ToolkitError, match="exactly one of unfreeze_last and unfreeze"):
        load_recipe(path)


def test_an_override_of_one_selection_replaces_the_other(recipe: Path) -> None:
    patterns = load_recipe(recipe, ["model.unfreeze=[head]"]).model
    assert (patterns.unfreeze, patterns.unfreeze_last) == (["head"], None)
    back = load_recipe(recipe, ["model.unfreeze=[head]", "model.unfreeze_last=0"]).model
    assert (back.unfreeze, back.unfreeze_last) == (None, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: [1", "the recipe is no YAML"),
        (b"data: \x00", "the recipe is no YAML"),
        (b"\xff\xd8\xff\xe0 a photo, not a recipe", "the recipe is no YAML"),
        (b"", "holds no sections"),
        (b"- data", "holds no sections"),
        (b"1: 2", "keys should be strings"),
        (b"training: 3", "training: input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ToolkitError, match=message) as caught:
        load_recipe(path)
    assert caught.value.where == str(path)


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="No such file"):
        load_recipe(tmp_path / "missing.yaml")
    with pytest.raises(ToolkitError, match="directory"):
        load_recipe(tmp_path)


def test_classes_that_are_numbers_may_have_weights(recipe: Path) -> None:
    weights = load_recipe(recipe, ["training.class_weights={0: 1, 1: 2.5}"]).training.class_weights
    assert weights == {"0": 1.0, "1": 2.5}


def test_a_key_of_two_kinds_is_named_as_the_user_wrote_it(recipe: Path) -> None:
    with pytest.raises(ToolkitError) as caught:
        load_recipe(recipe, ["training.class_weights=equal"])
    assert caught.value.what.startswith("training.class_weights: input should be 'balanced' (got 'equal') (")
    with pytest.raises(ToolkitError, match=r"training\.class_weights\.cat: input should be greater than 0"):
        load_recipe(recipe, ["training.class_weights={cat: -1}"])


def test_shares_that_leave_nothing_to_train_on_are_refused(recipe: Path) -> None:
    with pytest.raises(ToolkitError, match="leave nothing to train on"):
        load_recipe(recipe, ["data.validation_share=0.5", "data.test_share=0.5"])


def test_keys_that_contradict_are_named_without_a_place_before_them(recipe: Path) -> None:
    with pytest.raises(ToolkitError) as caught:
        load_recipe(recipe, ["training.cutmix=1", "training.mix_at=boundary"])
    assert caught.value.what.startswith("training.cutmix cuts images")


@pytest.mark.parametrize("classes", ["[a, null]", "[a, .nan]", "[a, NaN]", "[a, '']", "[a, ' ']"])
def test_what_is_no_label_is_no_class(recipe: Path, classes: str) -> None:
    with pytest.raises(ToolkitError, match=r"data\.classes: an empty name, null, NaN and 'nan' are no class") as caught:
        load_recipe(recipe, [f"data.classes={classes}"])
    assert "entry 2" in caught.value.what


@pytest.mark.parametrize("key", ["null", ".nan", "NaN", "' '"])
def test_what_is_no_label_has_no_weight(recipe: Path, key: str) -> None:
    with pytest.raises(ToolkitError, match=r"training\.class_weights: an empty name"):
        load_recipe(recipe, [f"training.class_weights={{a: 1, {key}: 2}}"])


def test_classes_and_weights_read_as_labels_do(recipe: Path) -> None:
    settings = ["data.classes=[1.0, 'cafe\u0301', 2]", "training.class_weights={1.0: 1, 'cafe\u0301': 2, 2: 3}"]
    read = load_recipe(recipe, settings)
    assert read.data.classes == ["1", "caf\u00e9", "2"]
    assert read.training.class_weights == {"1": 1, "caf\u00e9": 2, "2": 3}


@pytest.mark.parametrize(
    "setting",
    [
        "data.classes=[1, 1.0]",
        "data.classes=['caf\u00e9', 'cafe\u0301']",
        "training.class_weights={1: 1, 1.0: 2, '1': 3}",
    ],
)
def test_names_of_one_class_are_not_two(recipe: Path, setting: str) -> None:
    with pytest.raises(ToolkitError, match="the same class stands there twice"):
        load_recipe(recipe, [setting])
