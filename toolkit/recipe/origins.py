"""Where a value of a recipe was written: a line of its file, or an override on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import ToolkitError


class Origins:
    """The places of a recipe's values.

    Args:
        content: the file, which holds a YAML mapping; empty where there is none.
        overrides: as they were written, ``section.key=value``.
        prefix: what may be left out before an override's key.
    """

    def __init__(self, content: bytes, overrides: Sequence[str], prefix: str = "") -> None:
        self._root = yaml.compose(content, Loader=yaml.SafeLoader) if content else None
        self._overrides = {}
        for override in overrides:
            name = override.partition("=")[0]
            self._overrides[tuple((prefix + name.removeprefix(prefix)).split("."))] = override

    def of(self, key: Sequence[object]) -> str | None:
        """Where a key, or what stands in it, was written, such as ``line 12``; None where nowhere."""
        parts = tuple(map(str, key))
        above = [written for name, written in self._overrides.items() if parts[: len(name)] == name]
        if above:
            return f"override {above[-1]}"
        below = [written for name, written in self._overrides.items() if parts and name[: len(parts)] == parts]
        line = self._line(parts)
        said = ([f"line {line}"] if line else []) + [f"override {written}" for written in below]
        return ", ".join(said) or None

    def of_mentioned(self, sentence: str, keys: Sequence[str], section: str = "") -> str | None:
        """Where the keys that a sentence names were written; a key of ``section`` may stand there by its last part."""
        found = {}
        for key in keys:
            short = key.removeprefix(f"{section}.") if section else key
            if re.search(rf"(?<![\w.]){re.escape(short)}(?![\w.]*\w)", sentence):
                found[short] = self.of(key.split("."))
        return ", ".join(f"{name}: {origin}" for name, origin in found.items() if origin) or None

    def _line(self, parts: Sequence[str]) -> int | None:
        """Line of a key in the file, from 1; None where it isn't there."""
        node: Any = self._root
        line = None
        for part in parts:
            if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            here = next(((key, value) for key, value in pairs if key.value == part), None)
            if here is None:
                return line if isinstance(node, yaml.ScalarNode) else None
            line, node = here[0].start_mark.line + 1, here[1]
        return line


@contextmanager
def naming_origins(path: Path, overrides: Sequence[str], values: Mapping[str, Any]) -> Iterator[None]:
    """Add to an error over a key, or over a path that a key holds, where that was written.

    Args:
        path: the recipe's file.
        overrides: of the command line.
        values: every key of the recipe, by its dotted name, with its value.
    """
    try:
        yield
    except ToolkitError as error:
        key = _key_of(error.where, values)
        origin = Origins(path.read_bytes(), overrides).of(key.split(".")) if key else None
        if key is None or origin is None:
            raise
        place = origin if origin.startswith("override") else f"{path}, {origin}"
        name = "" if error.where.startswith(key) else f"{key}, "
        where = f"{error.where}, {name}{place}"
        raise ToolkitError(error.what, where=where, fix=error.fix, everywhere=error.everywhere) from error


def _key_of(where: str, values: Mapping[str, Any]) -> str | None:
    """The key that an error's place is, or is the value of."""
    named = re.match(r"[a-z_]+(\.[a-z_]+)+(?=$|[:,])", where)
    if named and any(key == named[0] or key.startswith(f"{named[0]}.") for key in values):
        return named[0]
    return next((key for key, value in values.items() if isinstance(value, Path) and str(value) == where), None)
