"""The building blocks of ``report.html``: text that is escaped, tables in scroll boxes, embedded plots.

The markup stands in ``templates/``; here is what goes into it.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from toolkit.text import for_terminal

Row = Mapping[str, Any]
Columns = dict[str, Callable[[Any], str]]
"""Heading of a column, and how a row's cell reads; an empty cell where the row says nothing."""
NUMERIC = re.compile(r"[-+±≤≥<>]?\d")
NOTHING = Markup()


@cache
def templates() -> Environment:
    """The environment of the templates: everything is escaped, and shown as a terminal would show it."""
    return Environment(
        loader=PackageLoader("toolkit.reporting"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        finalize=lambda value: (
            for_terminal(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
        keep_trailing_newline=True,
    )


def _block(name: str, *arguments: Any) -> Markup:
    """A macro of ``blocks.html.j2``."""
    found: Markup = getattr(templates().get_template("blocks.html.j2").module, name)(*arguments)
    return found


def page(title: str, sentences: Sequence[str], large: Markup, sections: Sequence[tuple[str, str, Markup]]) -> str:
    """A page of HTML.

    Args:
        title: of the page.
        sentences: below it.
        large: a :func:`headline`.
        sections: identity, heading and content; those without content are left out.
    """
    style = templates().get_template("style.css").render()
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            title=title,
            sentences=sentences,
            headline=large,
            sections=[each for each in sections if each[2]],
            style=Markup(style),
            blocks=templates().get_template("blocks.html.j2").module,
        )
    )


def joined(parts: Iterable[str]) -> Markup:
    """Blocks one after the other."""
    return NOTHING.join(parts)


def subsection(title: str, *parts: str) -> Markup:
    """A heading and what stands under it; nothing where it has no parts."""
    content = joined(parts)
    return _block("subsection", title, content) if content else NOTHING


def paragraph(text: str) -> Markup:
    """A paragraph of plain text."""
    return _block("paragraph", text) if text else NOTHING


def note(sentences: Sequence[str]) -> Markup:
    """A box that can't be overlooked; nothing without sentences."""
    return _block("note", sentences) if sentences else NOTHING


def folded(summary: str, *parts: str) -> Markup:
    """Parts that a click on the summary unfolds; nothing without parts."""
    content = joined(parts)
    return _block("folded", summary, content) if content else NOTHING


def headline(metrics: Iterable[tuple[str, str]]) -> Markup:
    """Large metrics, each with what it is."""
    return _block("headline", list(metrics))


def facts(pairs: Mapping[str, str]) -> Markup:
    """A list of names and what they stand for; names without a value are left out."""
    given = [(name, value) for name, value in pairs.items() if value]
    return _block("facts", given) if given else NOTHING


def table(caption: str, columns: Columns, rows: Iterable[Any]) -> Markup:
    """A table in a box that scrolls; columns that are empty throughout are left out; nothing without rows."""
    rows = list(rows)
    cells = {heading: [read(row) for row in rows] for heading, read in columns.items()}
    cells = {heading: column for heading, column in cells.items() if any(column)}
    if not cells:
        return NOTHING
    numeric = [all(NUMERIC.match(cell) for cell in column if cell) for column in cells.values()]
    return _block("table", caption, list(cells), list(zip(*cells.values(), strict=True)), numeric)


def plot(folder: Path, name: str, alt: str, caption: str = "") -> Markup:
    """A plot of the bundle, embedded. Nothing where it was not drawn."""
    path = folder / f"{name}.png"
    if not path.is_file():
        return NOTHING
    image = base64.b64encode(path.read_bytes()).decode()
    return _block("plot", name.replace("_", "-"), alt, image, caption)


def plots(*metrics: str) -> Markup:
    """Plots side by side where there is room for two."""
    content = joined(metrics)
    return _block("plots", content) if content else NOTHING


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits with thousands marked, never an exponent; nothing for None or NaN."""
    if value is None or not math.isfinite(value):
        return ""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 6)}f}{unit}"


def share(value: float | None) -> str:
    """A share as a percentage; nothing for None."""
    return "" if value is None else f"{value:.0%}"


def within(value: float | None, bounds: Sequence[float] | None) -> str:
    """A metric with its interval, where it has one."""
    if value is None or bounds is None:
        return number(value)
    return f"{number(value)} ({number(bounds[0])} to {number(bounds[1])})"


def reads(key: str, unit: str = "") -> Callable[[Any], str]:
    """Reads a key of a row as a number, or as the text that it is; nothing where the row lacks it."""

    def read(row: Row) -> str:
        value = row.get(key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}{unit}"
        return number(value, unit) if isinstance(value, float) else str(value or "")

    return read


def graph_name(row: Row) -> str:
    """Precision and provider of a row."""
    return f"{row['precision']} on {row['provider']}"
