"""Recipes from YAML and overrides: unknown keys refused with the nearest one, every problem named at once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.recipe.key_hints import meant
from toolkit.recipe.origins import Origins
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.section import Section
from toolkit.recipe.untrained import UntrainedRecipe
from toolkit.regular_files import read_settings
from toolkit.strict_json import reason_in
from toolkit.strict_yaml import read_yaml


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides; values are read as YAML.

    Raises:
        ToolkitError: no such file, no YAML, or any number of problems in it, all in one message.
    """
    return trace_recipe(path, overrides)[0]


def load_resolved(path: Path) -> Recipe | UntrainedRecipe:
    """What a run folder says of how it was made; ``method`` stands in what the training loop did not make.

    Raises:
        ToolkitError: see :func:`load_recipe`.
    """
    content = _read(path)
    if "method" not in content:
        return load_recipe(path)
    try:
        return UntrainedRecipe.model_validate(content)
    except ValidationError as error:
        fix = "copy the run again, or make it anew"
        raise ToolkitError(f"damaged recipe: {reason_in(error)}", where=path, fix=fix) from error


def trace_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, dict[str, str]]:
    """:func:`load_recipe`, and where each key's value comes from: ``recipe``, ``override`` or ``default``."""
    content = _read(path)
    written = deepcopy(content)
    for override in overrides:
        _apply(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems = _problems(error, Origins(path.read_bytes(), overrides))
        raise ToolkitError(problems, where=path, fix="mend the keys that are named") from error
    asked = [override.partition("=")[0] for override in overrides]
    origins = {}
    for key in leaves(recipe):
        if any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in asked):
            origins[key] = "override"
        else:
            origins[key] = "recipe" if _stands_in(written, key) and _stands_in(content, key) else "default"
    return recipe, origins


def leaves(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every key of a section and of those in it, by its dotted name, with its value."""
    found: dict[str, Any] = {}
    for key, (_, value) in zip(type(section).keys(), section, strict=True):
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, Section) else {f"{prefix}{key}": value}
    return found


def _stands_in(content: dict[str, Any], key: str) -> bool:
    node: Any = content
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(read_settings(path))
    except OSError as error:
        raise ToolkitError(
            f"can't read the recipe: {error.strerror}", where=path, fix="toolkit recipes list shows what ships"
        ) from error
    except ValueError as error:
        raise ToolkitError(
            f"the recipe is no YAML: {_one_line(error)}", where=path, fix="mend the line that is named"
        ) from error
    if not isinstance(content, dict):
        raise ToolkitError("the recipe holds no sections", where=path, fix=f"give it {', '.join(Recipe.model_fields)}")
    return content


def load_data_config(path: Path, settings: Sequence[str] = ()) -> DataConfig:
    """The section ``data`` of a recipe for a path, with ``key=value`` settings such as ``columns.label=finding``.

    A setting may have ``data.`` before it, as in a recipe's overrides.

    Raises:
        ToolkitError: any number of problems in it, all in one message.
    """
    content: dict[str, Any] = {"data": {"path": str(path)}}
    for setting in settings:
        _apply(content, f"data.{setting.removeprefix('data.')}")
    try:
        return DataConfig.model_validate(content["data"])
    except ValidationError as error:
        problems = _problems(error, Origins(b"", settings, "data."), ("data",))
        raise ToolkitError(problems, where="settings", fix="mend the keys that are named") from error


def _apply(content: dict[str, Any], override: str) -> None:
    name, separator, value = override.partition("=")
    *sections, key = name.split(".")
    if not separator or not sections or not all([*sections, key]):
        known = meant(name, all_keys()) if name and not sections else None
        fix = f"write {known}={value or 'value'}" if known else "write section.key=value, such as training.epochs=3"
        raise ToolkitError(f"{override!r} is no override", where="command line", fix=fix)
    node = content
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ToolkitError(f"{section!r} holds no keys", where=override, fix="write section.key=value")
    try:
        node[key] = read_yaml(value)
    except ValueError as error:
        raise ToolkitError(f"the value is no YAML: {_one_line(error)}", where=override, fix="quote it") from error
    if key == "unfreeze":
        node.pop("unfreeze_last", None)
    if key == "unfreeze_last":
        node.pop("unfreeze", None)


def all_keys(model: type[Section] | None = None, prefix: str = "") -> list[str]:
    """The dotted names of all sections and keys, those of a section before those of the sections in it."""
    found, below = [], []
    for name, field in (model or Recipe).keys().items():
        found.append(f"{prefix}{name}")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            below += all_keys(kind, f"{prefix}{name}.")
    return found + below


def _problems(error: ValidationError, origins: Origins, sections: tuple[str, ...] = ()) -> str:
    """All problems in words, each with the place where the value was written.

    Args:
        error: of the model that stands at ``sections`` in a recipe.
        origins: of the recipe.
        sections: see there.
    """
    described = []
    for problem in error.errors():
        place = [*sections, *(part for part in problem["loc"] if "[" not in str(part))]
        if isinstance(problem["input"], dict) and problem["type"] == "value_error":
            origin = origins.of_mentioned(problem["msg"], all_keys(), ".".join(map(str, place)))
        else:
            origin = None if problem["type"] == "missing" else origins.of(place)
        described.append(_describe(problem, sections) + (f" ({origin})" if origin else ""))
    return "; ".join(described)


def _describe(problem: Any, sections: tuple[str, ...] = ()) -> str:
    """One problem in words: where it is, what is wrong and, for an unknown key, the nearest valid one.

    Args:
        problem: an entry of pydantic's errors.
        sections: where in a recipe the model stands that was checked.
    """
    path = [part for part in problem["loc"] if isinstance(part, str)]
    place = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))  # dict[str,float]: one of two kinds
    if problem["type"] == "extra_forbidden":
        section = ".".join([*sections, *path[:-1]])
        known = meant(".".join([*sections, *path]), all_keys())
        if known is None:
            hint = f"valid keys: {', '.join(_keys_of([*sections, *path[:-1]]))}"
        else:
            inside = known.removeprefix(f"{section}.")
            hint = f"did you mean {(known if '.' in inside else inside)!r}?"
        return f"unknown key {place!r}, {hint}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return (
        f"{place}: {message[0].lower()}{message[1:]} (got {_short(repr(problem['input']))})"
        if not isinstance(problem["input"], dict)
        else ": ".join(filter(None, (place, message)))
    )


def _keys_of(path: Sequence[str]) -> list[str]:
    model: type[Section] = Recipe
    for part in path:
        model = model.keys()[part].annotation  # type: ignore[assignment]
    return list(model.keys())


def _short(text: str, most: int = 200) -> str:
    """A text cut to so many characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
