"""Paths that a user gives: what is refused by its name alone, and a run's folder, before anything large is imported."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
"""A scheme of two letters or more, since one letter is a drive; a path has made one stroke of two."""


def remote(path: Path | str) -> str | None:
    """Why something is no path on this machine: a URL, or ``-`` for standard input; None where it may be one."""
    text = str(path)
    if text == "-":
        return "'-' (standard input or output) is neither read nor written"
    found = ADDRESS.match(text)
    if found:
        return f"{found[1]}://{text[found.end() :]} is a URL, and nothing is fetched"
    return None


def require_local(path: Path | str) -> None:
    """Refuse a URL and ``-``, unless there is a file or folder of that very name.

    Raises:
        ToolkitError: naming it.
    """
    what = remote(path)
    if what is not None and not Path(path).exists():
        fix = "give a path on this machine"
        raise ToolkitError(what, where="command line", fix=f"{fix}; download it first" if "URL" in what else fix)


def local_paths_only(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose paths, alone or in lists, :func:`require_local` has let pass."""

    @functools.wraps(command)
    def checked(*arguments: Any, **options: Any) -> Any:
        for value in (*arguments, *options.values()):
            for each in value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]:
                if isinstance(each, Path):
                    require_local(each)
        return command(*arguments, **options)

    return checked


def require_run(path: Path, *, of_bundle: bool = False) -> None:
    """Raise unless a run lies there.

    Args:
        path: the folder.
        of_bundle: whether a bundle says so, and not the user.

    Raises:
        ToolkitError: there is no folder, or one without a recipe.
    """
    if of_bundle and not path.is_dir():
        raise ToolkitError("the run folder of the bundle is not here", where=path, fix="give it with --run RUN")
    if not (path / "recipe.yaml").is_file():
        what = "no run folder: recipe.yaml is missing" if path.is_dir() else "there is no such run folder"
        raise ToolkitError(what, where=path, fix="give a folder that recipes/finetune.py wrote")


def require_data(path: Path | None) -> None:
    """Raise unless something lies at a path that ``--data`` names.

    Raises:
        ToolkitError: nothing does.
    """
    if path is not None and not path.exists():
        raise ToolkitError("no such file or folder", where=path, fix="give where the run's images are now with --data")
