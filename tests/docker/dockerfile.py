"""A Dockerfile's instructions, and which files of a checkout reach a build."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Instruction:
    """A word and what follows it."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """Of the exec form, which needs no shell.

        Raises:
            ValueError: it has another form.
        """
        return [str(word) for word in json.loads(self.value)]


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction]

    def last(self, name: str) -> Instruction:
        """The instruction that counts where a later one replaces an earlier one."""
        return [each for each in self.instructions if each.name == name][-1]


def read(path: Path) -> list[Instruction]:
    """The instructions of a file, with lines that go on joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [
        Instruction(name, value.strip()) for name, _, value in (line.partition(" ") for line in joined.split("\n"))
    ]
    assert {each.name for each in found} <= KNOWN, path
    return found


def stages(path: Path) -> list[Stage]:
    """The stages of a file; the last is the image."""
    found: list[Stage] = []
    for each in read(path):
        if each.name == "FROM":
            base, _, name = each.value.partition(" AS ")
            found.append(Stage(base, name, []))
        else:
            found[-1].instructions.append(each)
    return found


class Ignored:
    """Of a .dockerignore, which paths stay out of a build: the last pattern that matches a path or a folder above it.

    Of the patterns' grammar, names, ``*``, ``[...]`` and a leading ``**/``.
    """

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (not line.startswith("!"), line.removeprefix("!")) for line in lines if line and not line.startswith("#")
        ]

    def __call__(self, path: str) -> bool:
        """Whether a path, relative to the checkout, stays out."""
        parts = path.split("/")
        trail = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        out = False
        for excludes, pattern in self._rules:
            if any(_pattern(pattern).fullmatch(each) for each in trail):
                out = excludes
        return out

    def leads_nowhere(self, folder: str) -> bool:
        """Whether nothing below a folder that stays out is let in by a later pattern."""
        inside = [pattern for excludes, pattern in self._rules if not excludes]
        return self(folder) and not any(pattern.startswith((f"{folder}/", "**")) for pattern in inside)


def _pattern(text: str) -> re.Pattern[str]:
    anywhere, text = text.startswith("**/"), text.removeprefix("**/")
    body = "".join(piece if piece[0] == "[" else re.escape(piece).replace(r"\*", "[^/]*") for piece in _pieces(text))
    return re.compile(("(?:.*/)?" if anywhere else "") + body)


def _pieces(text: str) -> Iterator[str]:
    yield from (piece for piece in re.split(r"(\[[^]]*\])", text) if piece)


def context(root: Path) -> list[str]:
    """The files, relative to a checkout, that a build of it is given."""
    ignored = Ignored((root / ".dockerignore").read_text())
    found = []
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not ignored.leads_nowhere((below / name).as_posix())]
        found += [path for path in ((below / name).as_posix() for name in files) if not ignored(path)]
    return sorted(found)
