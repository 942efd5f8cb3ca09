"""Labels and prompts that a user gives, in an option or a file."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.regular_files import read_settings


def labels_of(labels: str | None, file: Path | None) -> tuple[list[str], dict[str, str]]:
    """The classes, and what prompts say in place of some.

    Raises:
        ToolkitError: a class twice, an empty one, or one alone.
    """
    lines = labels.split(",") if labels is not None else _lines(file) if file else []
    where = "--labels" if labels is not None else str(file)
    pairs = [tuple(part.strip() for part in line.partition("\t")[::2]) for line in lines]
    names = [name for name, _ in pairs]
    if any(not name for name in names):
        raise ToolkitError("a class without a name", where=where, fix="remove the comma or line too many")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"the same class stands there twice: {', '.join(twice)}"
        raise ToolkitError(what, where=where, fix="name each class once")
    if len(names) == 1:
        raise ToolkitError(f"one class alone: {names[0]}", where=where, fix="name at least two")
    return names, {name: text for name, text in pairs if text}


def texts_of(file: Path) -> dict[str, str]:
    """What prompts say in place of labels, by a file's second column.

    Raises:
        ToolkitError: see :func:`labels_of`.
    """
    return labels_of(None, file)[1]


def templates_of(file: Path) -> list[str]:
    """Prompts of a file, a line each.

    Raises:
        ToolkitError: none, or one without a place for the class.
    """
    from toolkit.recipe.prompts import PLACE

    templates = _lines(file)
    if not templates:
        raise ToolkitError("no template in the file", where=file, fix=f"write a line such as: a photo of a {PLACE}.")
    for number, template in enumerate(templates, 1):
        if PLACE not in template:
            what = f"template {number} has no place for the class: {template!r}"
            raise ToolkitError(what, where=file, fix=f"write {PLACE} where it stands: a photo of a {PLACE}.")
    return templates


def _lines(file: Path) -> list[str]:
    """Lines of a text file that hold something.

    Raises:
        ToolkitError: it can't be read as UTF-8.
    """
    try:
        text = read_settings(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ToolkitError(f"can't read the file: {reason}", where=file, fix="give a text file, a line each") from error
    return [line.rstrip("\r\n") for line in text.splitlines() if line.strip()]
