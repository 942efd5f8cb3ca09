"""JSON as RFC 8259 has it: what others wrote is read without surprises, and what is written others can read."""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any, TextIO

from toolkit.text import for_terminal, is_utf8

NEITHER_SHOWN_NOR_A_BREAK = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters beyond those that JSON always escapes, and marks that turn or hide text."""


def read_json(content: bytes | str, *, finite: bool = True) -> Any:
    """Parse JSON that anybody may have written.

    Args:
        content: the text, or its bytes.
        finite: whether every number must be finite; tables of labels may say NaN for a label that is missing.

    Raises:
        ValueError: no JSON, not UTF-8, nested over 200 levels, or, where it must be finite, NaN or 1e400.
    """
    from pydantic_core import from_json

    parsed = from_json(content, allow_inf_nan=not finite)
    pending = [parsed] if finite else []
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is too large")
    return parsed


def reason_in(error: Exception) -> str:
    """What is wrong with content, in one line: the keys it lacks, the first other problem, or a parser's message."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        places = [".".join(map(str, problem["loc"])) for problem in problems]
        if all(problem["type"] == "missing" for problem in problems):
            return f"lacks {', '.join(sorted(places))}"
        first, place = problems[0], places[0]
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split()) or type(error).__name__


def print_json(content: Any, stream: TextIO) -> None:
    """Print JSON, indented, that any parser reads.

    A metric that is no finite number becomes null, and bytes of a name that are no UTF-8 are escaped. Letters
    beyond ASCII stand there themselves where the stream is UTF-8; what a terminal might obey is
    escaped as JSON has it.
    """
    utf8 = codecs.lookup(stream.encoding or "ascii").name == "utf-8"
    text = json.dumps(as_utf8(content, finite=True), indent=2, ensure_ascii=not utf8, allow_nan=False)
    stream.write(NEITHER_SHOWN_NOR_A_BREAK.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n")


def as_utf8(value: Any, *, finite: bool = False) -> Any:
    """Content in which every text can be written as UTF-8, other bytes escaped; see :func:`toolkit.text.for_terminal`.

    Args:
        value: of what JSON can hold.
        finite: whether a number that is not finite becomes None.
    """
    if isinstance(value, dict):
        return {as_utf8(key): as_utf8(each, finite=finite) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_utf8(each, finite=finite) for each in value]
    if isinstance(value, str) and not is_utf8(value):
        return for_terminal(value)
    return None if finite and isinstance(value, float) and not math.isfinite(value) else value
