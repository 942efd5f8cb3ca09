"""The thresholds of a bundle's labels in words and cells, for the card and the page."""

from __future__ import annotations

from typing import Any

HEADINGS = ("label", "said from a probability of", "precision", "recall", "F1", "average precision", "images")
SHARES = ("precision", "recall", "f1", "average_precision")


def threshold_sentences(thresholds: dict[str, Any]) -> list[str]:
    """What is decided, and what for.

    Args:
        thresholds: of ``summary.json``.
    """
    aim = thresholds["aim"]
    why = "with the best F1 there"
    if "precision" in aim:
        why = f"with the best recall of those that hold a precision of {aim['precision']:g} there, with 95 % confidence"
    never = [name for name, each in thresholds["labels"].items() if each["cut"] is None]
    sentences = [
        "A label is said of an image where its probability reaches the label's own threshold; an image may have "
        "several, or none.",
        f"Validation chose each threshold: the one {why}.",
    ]
    return sentences + ([f"Never said, since no threshold reaches that: {', '.join(never)}."] if never else [])


def label_cells(thresholds: dict[str, Any], per_class: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row a label under :data:`HEADINGS`, with 95 % intervals.

    Args:
        thresholds: of ``summary.json``.
        per_class: of a split's metrics; labels that it lacks are left out.
    """
    rows = []
    for name, metrics in per_class.items():
        chosen = thresholds["labels"].get(name, {}).get("probability")
        shares = [_within(metrics[share], metrics["intervals"][share]) for share in SHARES]
        rows.append([name, "never" if chosen is None else f"{chosen:.4f}", *shares, f"{metrics['images']:,}"])
    return rows


def _within(value: float | None, bounds: list[float | None]) -> str:
    if value is None or None in bounds:
        return "" if value is None else f"{value:.3f}"
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"
