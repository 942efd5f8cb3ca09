"""The texts of a data set: how a cell reads as one, which rows have none, and what they are like."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from statistics import median
from typing import Any

from toolkit.data.listing import named
from toolkit.errors import ToolkitError
from toolkit.labels import MISSING
from toolkit.recipe.data import MissingText
from toolkit.text import is_utf8


def text_of(value: Any) -> str | None:
    """A cell as a text, to the character as it is written; None where there is none.

    None, NaN of any library, and blanks alone are no text. The letters ``nan`` are one: no label is called so, but a
    text may be of bread.

    Raises:
        TypeError: a list, a table, or bytes.
    """
    if value is None or type(value).__name__ in MISSING or (isinstance(value, Real) and math.isnan(value)):
        return None
    if not isinstance(value, (str, Real)):
        raise TypeError(f"{type(value).__name__} is no text")
    text = str(value)
    return text if text.strip() else None


def texts_of(
    values: Sequence[Any], rows: Sequence[object], *, missing: MissingText, kind: str, where: object
) -> list[str | None]:
    """The texts of a data set, one a row.

    Args:
        values: cells as their format holds them.
        rows: what messages call them.
        missing: the recipe's ``data.missing_text``.
        kind: what a row is called.
        where: of the data.

    Raises:
        ToolkitError: rows without a text that may not be so, or with one that is none.
    """
    texts, strange = list[str | None](), list[object]()
    for value, row in zip(values, rows, strict=True):
        try:
            text = text_of(value)
        except TypeError:
            text, known = None, False
        else:
            known = text is None or is_utf8(text)
        texts.append(text)
        if not known:
            strange.append(row)
    if strange:
        what = f"no Unicode text in {kind} {named(strange)} (a list, bytes, or half of a surrogate pair)"
        raise ToolkitError(what, where=where, fix="write one text in UTF-8 a row")
    empty = [row for row, text in zip(rows, texts, strict=True) if text is None]
    if empty and missing == "error":
        what = f"no text in {kind} {named(empty)} (empty, None, NaN and blanks alone are no text)"
        fix = "fill it in, remove the rows, or set data.missing_text=allow"
        raise ToolkitError(what, where=where, fix=fix)
    return texts


def sample_hash(sha256: str, text: str | None) -> str:
    """SHA-256 of a sample: its image's alone or, with a text, of both; two texts of one image are two samples.

    Args:
        sha256: the image's; empty where there is none.
        text: what stands beside it.
    """
    return sha256 if text is None else hashlib.sha256(f"{sha256}\n{text}".encode()).hexdigest()


def describe_texts(texts: Sequence[str | None]) -> dict[str, Any]:
    """What the texts of a data set are like.

    Returns:
        ``count`` of those that there are, ``missing``, ``different``, ``repeated``: how many stand there more than
        once, all counted; and ``characters`` {``shortest``, ``median``, ``longest``}, None without any.
    """
    there = [text for text in texts if text is not None]
    counted, lengths = Counter(there), sorted(map(len, there))
    return {
        "count": len(there),
        "missing": len(texts) - len(there),
        "different": len(counted),
        "repeated": sum(count for count in counted.values() if count > 1),
        "characters": {"shortest": lengths[0], "median": median(lengths), "longest": lengths[-1]} if there else None,
    }
