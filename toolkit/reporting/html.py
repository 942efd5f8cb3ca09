"""The building blocks of ``report.html``: escaped text, tables in scroll boxes, embedded plots."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.reporting.page_style import STYLE
from toolkit.text import for_html

Row = Mapping[str, Any]
Columns = dict[str, Callable[[Any], str]]
"""Heading of a column, and how a row's cell reads; an empty cell where the row says nothing."""
NUMERIC = re.compile(r"[-+±≤≥<>]?\d")


def page(title: str, parts: Iterable[str]) -> str:
    """A page of HTML that fetches nothing and runs nothing, which its policy enforces."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{for_html(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{"".join(parts)}</body></html>\n'


def section(identity: str, title: str, *parts: str) -> str:
    """A section with its heading, which the contents link to; nothing where it has no parts."""
    content = "".join(parts)
    if not content:
        return ""
    return f'<section id="{identity}"><h2>{for_html(title)}</h2>{content}</section>\n'


def subsection(title: str, *parts: str) -> str:
    """A heading and what stands under it; nothing where it has no parts."""
    content = "".join(parts)
    return f"<h3>{for_html(title)}</h3>{content}" if content else ""


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{for_html(text)}</p>" if text else ""


def note(sentences: Sequence[str]) -> str:
    """A box that can't be overlooked; nothing without sentences."""
    if not sentences:
        return ""
    return '<div class="note" role="note">' + "".join(f"<p>{for_html(each)}</p>" for each in sentences) + "</div>"


def folded(summary: str, *parts: str) -> str:
    """Parts that a click on the summary unfolds; nothing without parts."""
    content = "".join(parts)
    return f"<details><summary>{for_html(summary)}</summary>{content}</details>" if content else ""


def headline(figures: Iterable[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    items = "".join(f"<li><b>{for_html(figure)}</b> {for_html(what)}</li>" for figure, what in figures)
    return f'<ul class="figures">{items}</ul>'


def facts(pairs: Mapping[str, str]) -> str:
    """A list of names and what they stand for; names without a value are left out."""
    rows = "".join(f"<dt>{for_html(name)}</dt><dd>{for_html(value)}</dd>" for name, value in pairs.items() if value)
    return f"<dl>{rows}</dl>" if rows else ""


def table(caption: str, columns: Columns, rows: Iterable[Any]) -> str:
    """A table in a box that scrolls; columns that are empty throughout are left out; nothing without rows."""
    rows = list(rows)
    cells = {heading: [read(row) for row in rows] for heading, read in columns.items()}
    cells = {heading: column for heading, column in cells.items() if any(column)}
    if not cells:
        return ""
    numeric = [all(NUMERIC.match(cell) for cell in column if cell) for column in cells.values()]
    kinds = [' class="n"' if each else "" for each in numeric]
    head = "".join(f'<th scope="col"{kind}>{for_html(each)}</th>' for each, kind in zip(cells, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{for_html(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in zip(*cells.values(), strict=True)
    )
    name = for_html(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table><caption>{name}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def plot(folder: Path, name: str, alt: str, caption: str = "") -> str:
    """A plot of the bundle, embedded; a tap enlarges it on a phone. Nothing where it was not drawn."""
    path = folder / f"{name}.png"
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    below = f"<figcaption>{for_html(caption)}</figcaption>" if caption else ""
    kind = name.replace("_", "-")
    return (
        f'<figure class="{kind}"><input class="zoom" type="checkbox" id="zoom-{kind}" aria-label="Enlarge this plot">'
        f'<label for="zoom-{kind}"><img alt="{for_html(alt)}" src="data:image/png;base64,{content}">'
        f'<span class="hint">Tap the plot to enlarge it.</span></label>{below}</figure>'
    )


def plots(*figures: str) -> str:
    """Plots side by side where there is room for two."""
    content = "".join(figures)
    return f'<div class="plots">{content}</div>' if content else ""


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
    """A figure with its interval, where it has one."""
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


def form(row: Row) -> str:
    """Precision and provider of a row."""
    return f"{row['precision']} on {row['provider']}"
