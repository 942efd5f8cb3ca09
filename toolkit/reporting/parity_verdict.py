"""Parity's verdict in words: whether it passed, and how many labels flip all the same."""

from __future__ import annotations

from typing import Any


def parity_verdict(entry: dict[str, Any]) -> str:
    """Such as ``passed; 2 of 72 labels flip, at most 8.5 % with 95 % confidence``.

    The bound is exact, one-sided, and of groups of images where there are groups; see
    :mod:`toolkit.metrics.intervals`. Files of older versions that have none say how many flip.

    Args:
        entry: of ``parity.json``, of a precision and provider.
    """
    verdict = "passed" if entry["passed"] else "FAILED"
    images = int(entry["images"])
    flips = entry.get("flip_count")
    if flips is None:
        flips = round((1 - float(entry["top1_agreement"])) * images)
    said = f"{verdict}; {flips:,} of {images:,} labels flip"
    least = entry.get("top1_agreement_at_least")
    return said if least is None else f"{said}, at most {1 - float(least):.1%} with 95 % confidence"
