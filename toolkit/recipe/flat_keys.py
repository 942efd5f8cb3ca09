"""A recipe's keys as trackers take them: one level, joined by dots."""

from __future__ import annotations

from typing import Any


def flat_keys(content: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested keys joined by dots; what no tracker takes as it is, as text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
