"""The operating point of a bundle in words and cells, for the card and the page."""

from __future__ import annotations

from typing import Any

HEADINGS = ("split", "sensitivity", "specificity", "images of the class", "other images")


def point_sentences(point: dict[str, Any]) -> list[str]:
    """What is decided, why there, and what that changes of the other metrics."""
    ((rate, target),) = point["target"].items()
    sentences = [
        f"An image is said to be {point['class']} where its probability is {point['threshold']:.4f} or more, else the "
        "likeliest of the other classes.",
        f"Validation chose that threshold so that the {rate} there is at least {target:g}.",
        "Accuracy, F1 and the confusions are those of the likeliest class, without it.",
    ]
    return sentences + ([f"{point['note'][:1].upper()}{point['note'][1:]}."] if point["note"] else [])


def point_cells(point: dict[str, Any]) -> list[list[str]]:
    """Rows of validation and test under :data:`HEADINGS`."""
    return [
        [
            split,
            *(_within(point[split][rate], point[split]["intervals"][rate]) for rate in ("sensitivity", "specificity")),
            f"{point[split]['images']:,}",
            f"{point[split]['others']:,}",
        ]
        for split in ("validation", "test")
    ]


def _within(value: float, bounds: list[float]) -> str:
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"
