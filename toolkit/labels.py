"""How a label reads, whatever held it: a folder's name, a cell of a table, a field of JSON, a key of a recipe."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any

WHOLE = re.compile(r"([+-]?\d+)\.0+")
"""A whole number that was written as a fraction."""
MISSING = frozenset({"NAType", "NaTType"})
"""pandas' types of what is not there; they compare with nothing."""


def label_text(value: Any) -> str:
    """A label as text: NFC, whole numbers without a fraction; empty for what is no label.

    None, NaN of any library, the text ``nan`` in any case, and blanks are no label.
    """
    text = unicodedata.normalize("NFC", cell_text(value))
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def cell_text(value: Any) -> str:
    """A cell of a table as text; empty where there is none."""
    if hasattr(value, "as_py"):  # a scalar of pyarrow
        value = value.as_py()
    if value is None or type(value).__name__ in MISSING:
        return ""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        return _number_text(value)
    text = str(value)
    return "" if text.strip().lower() in {"", "nan"} else text


def _number_text(value: Any) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def similar_labels(labels: Iterable[str]) -> list[list[str]]:
    """Sets of labels that differ by case, blanks, invisible characters or compatibility forms alone."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
        seen = (character for character in folded if unicodedata.category(character) != "Cf")
        alike["".join("".join(seen).split())].append(label)
    return [found for found in alike.values() if len(found) > 1]


def natural_order(label: str) -> tuple[bool, int, str, str]:
    """Sorts labels: numbers by value, before names; a total order, of numbers of any length."""
    if label.isascii() and label.isdigit():
        digits = label.lstrip("0")
        return False, len(digits), digits, label
    return True, 0, label, label
