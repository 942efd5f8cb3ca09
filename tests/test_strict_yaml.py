"""Recipes that a stranger wrote: what PyYAML would take, unfold or trip over is refused by one class."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolkit.errors import ToolkitError
from toolkit.recipe.reading import load_recipe
from toolkit.strict_yaml import read_yaml


def bomb(levels: int, width: int = 9) -> str:
    """Each level stands for nine of the one before."""
    rows = (f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels))
    return "\n".join(["a0: &a0 [x, x]", *rows])


def merge_bomb(levels: int) -> str:
    rows = (f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}" for level in range(1, levels))
    return "\n".join(["a0: &a0 {k: 1}", *rows])


HOSTILE = {
    bomb(30): "more than 100,000 values",
    merge_bomb(30): "more than 100,000 values",
    "data: &a [*a]": "within what it names",
    "data: 1\nmodel: 2\ndata: 3": "'data' stands there twice (line 3)",
    "data: {path: a, path: b}": "'path' stands there twice (line 1)",
    "[" * 100_000: "nested too deep",
    "{a: " * 100_000: "nested too deep",
    f"a: {'9' * 5000}": "limit",
    "a: 2020-99-99": "month",
    "a: !!timestamp x": "tag",
    "a: !!int ''": "tag",
    "a: !!bool x": "tag",
    "a: !!python/object/apply:os.system ['true']": "python/object",
    "a: *b": "undefined alias",
    "? [1]\n: 2": "unhashable",
    "a: \x1b[31m": "unacceptable character",
    "a: 1\n---\nb: 2": "another document",
    "a: [": "expected",
}


@pytest.mark.parametrize("text", list(HOSTILE), ids=range(len(HOSTILE)))
def test_a_hostile_recipe_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_yaml(text)
    assert HOSTILE[text] in str(caught.value)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ToolkitError) as refused:
        load_recipe(path)
    assert HOSTILE[text] in refused.value.as_line()
    assert len(refused.value.as_line()) < 1000
    if "\n" not in text:
        with pytest.raises(ToolkitError, match="no YAML"):
            load_recipe(Path("recipes/configs/digits.yaml"), [f"model.head={text}"])


def test_a_small_bomb_makes_no_long_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: &a\n  path: x\n" + bomb(5).replace("a0:", "model:"))
    with pytest.raises(ToolkitError) as refused:
        load_recipe(path)
    assert len(refused.value.as_line()) < 2000


def test_anchors_merges_and_types_read_as_they_always_did() -> None:
    text = (
        "base: &b {a: 1, c: 0x10}\nother:\n  <<: *b\n  a: 2.5\nlist: [yes, null, ~, 2020-01-01, .inf, 'é']\nagain: *b"
    )
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml(b"") is None
