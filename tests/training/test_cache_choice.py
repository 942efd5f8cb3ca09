"""``training.boundary_cache.enabled: auto``: on where the run is the same, else off, and a line that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from recipes.finetune import finetune
from toolkit.recipe.reading import load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.training.boundary_cache import FILL_BATCH
from toolkit.training.cache_choice import batch_sizes_of, choose_cache, largest_rounding, reason_against
from toolkit.training.explain import explain

ROOT = Path(__file__).parents[2]
SIZE = (8, 8)


def auto(**cache: Any) -> dict[str, Any]:
    return {"boundary_cache": {"enabled": "auto"} | cache}


def steady(pixel_values: Tensor) -> Tensor:
    """A trunk that gives each image the same, whatever the batch."""
    return pixel_values.flatten(1)[:, :10]


def moody(pixel_values: Tensor) -> Tensor:
    """A trunk whose sums depend on the batch."""
    return steady(pixel_values) + len(pixel_values) * 2.0**-20


def chosen(
    recipe: Recipe, folder: Path, trunk: Callable[[Tensor], Tensor] = steady, **changes: Any
) -> tuple[bool, str]:
    images = {"train": 1000, "validation": 100}
    given = {"frozen": True, "images": images, "trunk": trunk, "size": SIZE, "folder": folder, "exact": True} | changes
    choice = choose_cache(recipe, **given)
    return choice.enabled, choice.why


def test_the_same_run_has_a_cache(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training=auto())
    assert chosen(recipe, tmp_path) == (True, "the same run, bit for bit")
    assert chosen(recipe, tmp_path, exact=False) == (True, "the same run, but for the rounding of activations")
    on, why = chosen(recipe, tmp_path, moody)
    assert (on, why.partition(" up to ")[0]) == (True, "the same run, but for roundings")
    views = make_recipe(data={"augment": ["crop"]}, training=auto(views=3) | {"epochs": 9})
    assert chosen(views, tmp_path) == (True, "with 3 versions of each training image, bit for bit")


@pytest.mark.parametrize(
    ("sections", "changes", "says"),
    [
        ({"data": {"augment": ["crop", "flip_vertical"]}}, {}, "data.augment (crop, flip_vertical) makes other images"),
        ({"training": {"mixup": 0.2}}, {}, "mixes the images anew; training.mix_at=boundary"),
        ({"training": {"cutmix": 0.2}}, {}, "mixes the images anew"),
        ({"training": {"epochs": 1}}, {}, "no image would be read twice in 1 epochs"),
        ({}, {"frozen": False, "trunk": None}, "no group is frozen"),
        ({"cache": {"max_gb": 4.3e-5}}, {}, "it would take 4.4e-05 GB, and training.boundary_cache.max_gb is 4.3e-05"),
        ({}, {"images": {"train": 10**15, "validation": 1}}, "and the disk has"),
    ],
)
def test_another_run_has_none_and_a_reason(
    sections: dict[str, Any], changes: dict[str, Any], says: str, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    training = auto(**sections.get("cache", {})) | sections.get("training", {})
    training["boundary_cache"] = {"max_gb": 1e12} | training["boundary_cache"]
    on, why = chosen(make_recipe(data=sections.get("data", {}), training=training), tmp_path, **changes)
    assert not on
    assert why.startswith("since ")
    assert says in why


def test_a_run_that_goes_on_keeps_what_was_chosen(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training=auto())
    assert chosen(recipe, tmp_path, recorded=False)[0] is False
    assert chosen(recipe, tmp_path, recorded=True, frozen=False)[0] is True


def test_every_size_of_a_batch_is_looked_at(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(training=auto() | {"batch_size": 12, "gradient_accumulation": 2})
    sizes = batch_sizes_of(recipe, {"train": 100, "validation": 50})
    # in epochs of 100: 12, the rest 4; of 50: 12 and 2; while filling: 32 and the rests 4 and 18; alone where idle
    assert sizes == [1, 2, 4, 12, 18, FILL_BATCH]


def test_a_rounding_between_batches_is_found(make_recipe: Callable[..., Recipe]) -> None:
    assert largest_rounding(steady, SIZE, [1, 5, 32]) == 0
    assert largest_rounding(moody, SIZE, [1, 5, 32]) == pytest.approx(31 * 2.0**-20, rel=0.1)


@pytest.mark.parametrize(
    ("family", "unfreeze_last"),
    [
        *(("clip", 0), ("siglip", 1)),
        *(pytest.param(family, last, marks=pytest.mark.slow) for family, last in (("clip", 1), ("siglip", 0))),
    ],
)
def test_where_it_says_bit_for_bit_the_weights_are_the_same_bits(
    family: str,
    unfreeze_last: int,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    weights = {}
    for name, cache in (("plain", {}), ("auto", auto())):
        model = {"unfreeze_last": unfreeze_last}
        finetune(make_recipe(family, model=model, training={"epochs": 3, "batch_size": 6} | cache), tmp_path / name)
        weights[name] = load_file(tmp_path / name / "best" / "model.safetensors")
    said = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("boundary cache: on"))
    assert yaml.safe_load((tmp_path / "auto" / "recipe.yaml").read_text())["training"]["boundary_cache"]["enabled"]
    same = all(torch.equal(weights["plain"][name], tensor) for name, tensor in weights["auto"].items())
    assert same or said.startswith("boundary cache: on, the same run, but for roundings up to")


def test_a_run_with_augmentation_says_why_it_has_none_and_goes_on(
    make_recipe: Callable[..., Recipe], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(data={"augment": ["crop"]}, training=auto())
    summary = finetune(recipe, tmp_path / "run")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("boundary cache:")]
    assert lines == [f"boundary cache: off, since {reason_against(recipe, frozen=True)}"]
    assert summary["boundary_cache"] is False
    finetune(recipe, tmp_path / "run", resume=True)  # the resolved recipe is the same one
    assert "boundary cache: off, as the run was started" in capfd.readouterr().err


def test_the_folder_recipe_decides_by_itself(color_data: Path, encoders: dict[str, Path]) -> None:
    path = ROOT / "recipes" / "configs" / "clip_vit_b32_folder.yaml"
    here = [f"data.path={color_data}", f"model.encoder={encoders['clip']}", "training.batch_size=6"]
    plain = load_recipe(path, here)
    assert plain.training.boundary_cache.enabled == "auto"
    assert "data.augment (crop, flip_horizontal)" in str(reason_against(plain, frozen=True))
    for same in (["data.augment=[]"], ["training.boundary_cache.views=4"]):
        assert reason_against(load_recipe(path, [*here, *same]), frozen=True) is None
    assert explain(plain, probe=False)["boundary_cache"]["enabled"] is False
    assert explain(load_recipe(path, [*here, "data.augment=[]"]), probe=False)["boundary_cache"]["enabled"] is True
