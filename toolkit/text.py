"""Text that others chose, a file's name or a label, made fit for where it goes: a terminal, Markdown, HTML, UTF-8."""

from __future__ import annotations

import html
import re
from pathlib import Path

SHOWN = frozenset("\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}")
"""What Python calls unprintable and words are written with."""
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
"""What has a meaning in Markdown, its tables and its formulas, wherever it stands."""
BLOCK = re.compile(r"^(\s*)(\d+)([.)])|^(\s*)([-=:])")
"""What begins a list, a heading's underline or a definition at the start of a line."""
STRANGE_BYTE = re.compile("[\udc80-\udcff]")
"""How Python holds a byte of a file's name that is no UTF-8."""


def for_terminal(text: str) -> str:
    r"""One line that a terminal shows and does not obey.

    Control characters, line breaks, marks that turn the direction of writing, and bytes that are no UTF-8
    are written as Python writes them, ``\x1b``.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in SHOWN:
        return character
    if STRANGE_BYTE.match(character):
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def for_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also in a cell of a table."""
    escaped = MARKDOWN.sub(r"\\\1", for_terminal(text))
    return BLOCK.sub(lambda found: "".join(found[at] or "" for at in (1, 2, 4)) + f"\\{found[3] or found[5]}", escaped)


def markdown_code(text: str) -> str:
    """Text as a code span, whatever backticks it holds; not for a cell of a table."""
    shown = for_terminal(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown[:1] == "`" or shown[-1:] == "`" or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def for_html(text: str) -> str:
    """Text that a page shows as it is, in an element or an attribute."""
    return html.escape(for_terminal(text))


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: a file's name may hold bytes that can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_text(path: Path | str) -> str:
    """A path as text that is valid UTF-8 and names one file.

    It is the path itself or, where that holds bytes that are no UTF-8, its ``file:`` URI (RFC 8089), in which
    they are percent-encoded. No path reads so: one has no two slashes in a row.
    """
    text = str(path)
    return text if is_utf8(text) else Path(path).absolute().as_uri()
