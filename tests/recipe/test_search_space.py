"""What --search may say, and what is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.search_space import Choices, Range, check_space, grid, read_space, size_of, with_values


def test_lists_are_choices_and_ranges_are_of_the_keys_numbers() -> None:
    space = read_space(
        [
            "training.learning_rate=1e-5..1e-2:log",
            "training.epochs = 2 .. 8",
            "training.weight_decay=0..1",
            "model.head.type=linear,mlp",
            "training.ema_decay=null,0.9",
            "training.head_learning_rate=1e-3,1e-2",
        ]
    )
    assert space["training.learning_rate"] == Range(low=1e-5, high=1e-2, log=True, whole=False)
    assert space["training.epochs"] == Range(low=2, high=8, log=False, whole=True)
    assert space["training.weight_decay"] == Range(low=0, high=1, log=False, whole=False)
    assert space["model.head.type"] == Choices(values=("linear", "mlp"))
    assert space["training.ema_decay"] == Choices(values=(None, 0.9))
    assert space["training.head_learning_rate"] == Choices(values=(1e-3, 1e-2))


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ([], "nothing to search"),
        (["training.epochs"], "says not what to try"),
        (["training.epochs="], "says not what to try"),
        (["training.epoch=1,2"], "did you mean training.epochs"),
        (["training.lr=1,2"], "did you mean training.learning_rate"),
        (["training=1,2"], "section"),
        (["data.split_seed=1,2"], "compared on the same images"),
        (["data.path=a,b"], "compared on the same images"),
        (["training.select_by=loss,accuracy"], "compared by it"),
        (["training.boundary_cache.dir=a,b"], "share one cache"),
        (["training.epochs=1,1"], "twice"),
        (["training.epochs=1,2", "training.epochs=3"], "searched twice"),
        (["training.epochs=[1],2"], "scalar"),
        (["training.epochs='a"], "no YAML"),
        (["training.epochs=0.5..2"], "whole"),
        (["training.epochs=8..2"], "no range"),
        (["training.weight_decay=0..1:log"], "no logarithm"),
        (["training.learning_rate=1..1e999"], "no range"),
        (["training.scheduler=1..2"], "no number"),
        (["model.unfreeze_last=1,2", "model.unfreeze=head"], "two ways"),
    ],
)
def test_what_can_not_be_searched_is_said(search: list[str], says: str) -> None:
    with pytest.raises(ToolkitError, match="--search") as caught:
        read_space(search)
    assert says in caught.value.as_line()


def test_a_grid_is_all_combinations_and_has_no_ranges() -> None:
    space = read_space(["training.epochs=1,2", "model.head.type=linear,mlp,cosine"])
    found = grid(space)
    assert len(found) == size_of(space) == 6
    assert found[1] == {"training.epochs": 1, "model.head.type": "mlp"}
    with pytest.raises(ToolkitError, match="no place for a range"):
        grid(read_space(["training.epochs=1..2"]))


def test_sizes_count_whole_numbers_and_no_others() -> None:
    assert size_of(read_space(["training.epochs=2..8", "training.compile=true,false"])) == 14
    assert size_of(read_space(["training.weight_decay=0..1"])) is None


def test_values_are_set_as_overrides_are(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(model={"unfreeze": ["head"]})
    changed = with_values(recipe, {"model.unfreeze_last": 2, "training.boundary_cache.views": 1})
    assert (changed.model.unfreeze_last, changed.model.unfreeze) == (2, make_recipe().model.unfreeze)
    assert changed.training.epochs == recipe.training.epochs
    assert "enabled" not in changed.training.boundary_cache.model_fields_set


def test_combinations_that_a_recipe_refuses_are_named(make_recipe: Callable[..., Recipe]) -> None:
    space = read_space(["training.mix_at=images,boundary", "training.cutmix=0,0.5"])
    with pytest.raises(ToolkitError, match="cutmix cuts images") as caught:
        check_space(make_recipe(), space)
    assert "training.mix_at=boundary, training.cutmix=0.5" in caught.value.where
    with pytest.raises(ToolkitError, match=r"training\.epochs=0"):
        check_space(make_recipe(), read_space(["training.epochs=0..3"]))
    check_space(make_recipe(), read_space(["training.mix_at=images,boundary", "training.mixup=0,0.5"]))
