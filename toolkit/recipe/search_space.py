"""What a sweep tries: for each key of a recipe its choices or its range, checked before anything is trained."""

from __future__ import annotations

import itertools
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import ToolkitError
from toolkit.recipe.key_hints import meant
from toolkit.recipe.reading import all_keys
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.section import Section
from toolkit.strict_yaml import read_yaml

Value = bool | int | float | str | None
"""A scalar of YAML."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER})\s*\.\.\s*({NUMBER})\s*(:\s*log)?\s*")
COMBINATIONS = 2000
"""Combinations of values that are checked before the first trial; of more, each value once."""
COMPARED_BY = {
    "model.task": "trials of several tasks have no metric in common",
    "training.select_by": "trials are compared by it",
    "training.boundary_cache.dir": "trials share one cache",
}
"""Keys that all trials have in common, and why."""


class Choices(BaseModel):
    """Values of which a trial has one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["choices"] = "choices"
    values: tuple[Value, ...]

    @property
    def samples(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["range"] = "range"
    low: float
    high: float
    log: bool
    """Whether their logarithms are drawn evenly."""
    whole: bool
    """Whether they are integers."""

    @property
    def samples(self) -> tuple[Value, ...]:
        """Its ends."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


Space = Mapping[str, Choices | Range]
"""By the dotted name of a key."""


def read_space(searches: Sequence[str]) -> dict[str, Choices | Range]:
    """The space that ``key=a,b,c`` and ``key=low..high[:log]`` describe.

    Raises:
        ToolkitError: nothing to search, an unknown key, one that all trials must have in common, or no such values.
    """
    if not searches:
        fix = "give --search key=a,b,c or --search key=low..high[:log], such as training.learning_rate=1e-5..1e-2:log"
        raise ToolkitError("there is nothing to search", where="--search", fix=fix)
    space: dict[str, Choices | Range] = {}
    for search in searches:
        key, separator, text = (part.strip() for part in search.partition("="))
        if not separator or not key or not text:
            fix = "write key=a,b,c or key=low..high[:log]"
            raise ToolkitError(f"{search!r} says not what to try", where="--search", fix=fix)
        kind = _kind_of(key, search)
        if key in space:
            fix = "write all its values into one"
            raise ToolkitError(f"{key} is searched twice", where=f"--search {search}", fix=fix)
        space[key] = _range(key, text, kind, search) or _choices(text, kind, search)
    if {"model.unfreeze", "model.unfreeze_last"} <= space.keys():
        what = "model.unfreeze and model.unfreeze_last say the same in two ways"
        raise ToolkitError(what, where="--search", fix="search one of them")
    return space


def _kind_of(key: str, search: str) -> Any:
    """A key's type.

    Raises:
        ToolkitError: there is no such key, or it isn't for a trial to say.
    """
    keys = all_keys()
    if key not in keys:
        known = meant(key, keys)
        fix = f"did you mean {known}?" if known else "toolkit recipes reference lists the keys"
        raise ToolkitError(f"unknown key {key!r}", where=f"--search {search}", fix=fix)
    why = COMPARED_BY.get(key)
    if key.startswith("data.") and key != "data.augment" and not key.startswith(("data.crop_", "data.rand_augment_")):
        why = "all trials learn from and are compared on the same images"
    if why:
        fix = f"set it for all trials, as {key}=VALUE"
        raise ToolkitError(f"{key} can't be searched: {why}", where=f"--search {search}", fix=fix)
    kind: Any = Recipe
    for part in key.split("."):
        kind = kind.keys()[part].annotation
    if isinstance(kind, type) and issubclass(kind, Section):
        fix = f"search one of {', '.join(f'{key}.{name}' for name in kind.keys())}"  # noqa: SIM118 - no dict
        raise ToolkitError(f"{key} is a section", where=f"--search {search}", fix=fix)
    return kind


def _range(key: str, text: str, kind: Any, search: str) -> Range | None:
    """The range that a text says; None where it says none.

    Raises:
        ToolkitError: a range of what is no number, an empty one, or one that has no logarithm.
    """
    found = RANGE.fullmatch(text)
    if found is None:
        return None
    where, numbers = f"--search {search}", _numbers_in(kind)
    if not numbers:
        raise ToolkitError(f"{key} is no number", where=where, fix="write its values as a,b,c")
    low, high = float(found[1]), float(found[2])
    whole, log = float not in numbers, bool(found[3])
    if whole and not (low.is_integer() and high.is_integer()):
        raise ToolkitError(f"{key} is a whole number", where=where, fix="write whole numbers, such as 2..8")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ToolkitError(f"{text} is no range", where=where, fix="write the smaller number first")
    if log and low <= 0:
        raise ToolkitError(f"{low:g} has no logarithm", where=where, fix="begin above 0, or leave :log out")
    return Range(low=low, high=high, log=log, whole=whole)


def _numbers_in(kind: Any) -> set[type]:
    """Those of int and float that a type allows."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return set().union(*map(_numbers_in, get_args(kind)))
    if origin is Annotated:
        return _numbers_in(get_args(kind)[0])
    return {kind} & {int, float}


def _choices(text: str, kind: Any, search: str) -> Choices:
    """The values that a text lists.

    Raises:
        ToolkitError: no YAML, what is no scalar, or a value twice.
    """
    where = f"--search {search}"
    try:
        values = read_yaml(f"[{text}]")
    except ValueError as error:
        raise ToolkitError(f"the values are no YAML: {error}", where=where, fix="quote them") from error
    if not isinstance(values, list) or not all(isinstance(each, Value) for each in values):
        fix = "write scalars as a,b,c; what is a list or a mapping can be set for all trials, as key=VALUE"
        raise ToolkitError("not each of the values is a scalar", where=where, fix=fix)
    if _numbers_in(kind):  # YAML 1.1 reads 1e-3 as a text
        values = [float(each) if isinstance(each, str) and re.fullmatch(NUMBER, each) else each for each in values]
    if len(set(values)) < len(values):
        raise ToolkitError("a value stands there twice", where=where, fix="write each value once")
    return Choices(values=tuple(values))


def size_of(space: Space) -> int | None:
    """How many combinations there are; None with a range of numbers that are not whole."""
    sizes = []
    for each in space.values():
        if isinstance(each, Range) and not each.whole:
            return None
        sizes.append(len(each.values) if isinstance(each, Choices) else int(each.high - each.low) + 1)
    return math.prod(sizes)


def grid(space: Space) -> list[dict[str, Value]]:
    """All combinations, the last key's values changing first.

    Raises:
        ToolkitError: there is a range in it.
    """
    ranges = [key for key, each in space.items() if isinstance(each, Range)]
    if ranges:
        fix = "list its values as a,b,c, or leave --sampler grid out"
        raise ToolkitError(f"a grid has no place for a range, as {ranges[0]} has", where="--sampler grid", fix=fix)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(s.samples for s in space.values()))]


def with_values(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with other values of some keys.

    Args:
        recipe: of the sweep.
        values: of a trial, by the dotted names of their keys.

    Raises:
        ToolkitError: the recipe refuses them.
    """
    content = recipe.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        *sections, last = key.split(".")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
        if key == "model.unfreeze":
            node.pop("unfreeze_last", None)
        if key == "model.unfreeze_last":
            node.pop("unfreeze", None)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        what = f"the recipe refuses a trial's values: {problems}"
        raise ToolkitError(what, where=in_words(values), fix="leave one of them out of --search") from error


def check_space(recipe: Recipe, space: Space) -> None:
    """Refuse values that the recipe refuses, before anything is trained; of a range its ends are tried.

    Raises:
        ToolkitError: with the values of the trial that would fail.
    """
    for values in _tried(space):
        with_values(recipe, values)


def _tried(space: Space) -> Iterator[dict[str, Value]]:
    samples = [each.samples for each in space.values()]
    if math.prod(map(len, samples)) <= COMBINATIONS:
        yield from (dict(zip(space, values, strict=True)) for values in itertools.product(*samples))
        return
    first = {key: each.samples[0] for key, each in space.items()}
    for key, each in space.items():
        yield from (first | {key: value} for value in each.samples)


def in_words(values: Mapping[str, Value]) -> str:
    """A trial's values in a line."""
    return ", ".join(f"{key}={in_a_word(value)}" for key, value in values.items())


def in_a_word(value: Value) -> str:
    """A value as YAML writes it, numbers to four digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
