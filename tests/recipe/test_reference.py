from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.recipe.reading import leaves, load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.reference import recipe_reference
from toolkit.recipe.section import Section

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


def test_the_committed_page_is_what_the_schema_gives() -> None:
    assert (ROOT / "docs" / "recipe-reference.md").read_text() == recipe_reference(), "run make docs"


def fields_without_description(model: type[Section]) -> list[str]:
    missing = []
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            missing += fields_without_description(kind)
        elif not info.description:
            missing.append(f"{model.__name__}.{name}")
    return missing


def test_every_key_is_described_and_stands_on_the_page() -> None:
    assert fields_without_description(Recipe) == []
    page = recipe_reference()
    for key in leaves(load_recipe(CONFIGS[0])):
        section, _, name = key.rpartition(".")
        part = page.partition(f"\n## `{section}`\n")[2].partition("\n## ")[0]
        assert f"| `{name}` |" in part, key


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_opens_with_what_it_is_for_what_it_needs_how_to_launch_and_an_override(config: Path) -> None:
    head = [line[1:].strip() for line in config.read_text().partition("\n\n")[0].splitlines()]
    assert len(head[0]) > 40
    words = {line.split()[0]: line for line in head if line}
    assert {"needs", "launch", "override"} <= set(words)
    launch = " ".join(head).partition("launch ")[2]
    assert f"accelerate launch recipes/finetune.py --config recipes/configs/{config.name}" in launch
    override = words["override"].partition("... ")[2].replace("'", "")
    load_recipe(config, override.split())


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_configuration_opens_with_what_it_is_for(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20
