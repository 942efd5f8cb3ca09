"""A threshold for one class against the rest: chosen by its sensitivity or specificity; both with intervals.

Sensitivity is the share of the class's images that are found, specificity the share of the others that are not taken
for it.
"""

# N images

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit.metrics.intervals import Array, bounded_interval

Rate = Literal["sensitivity", "specificity"]
Flags = npt.NDArray[np.bool_]
FARTHEST = 30.0
"""Log-odds beyond which probabilities are not told apart."""
FEW = 5
"""With fewer images than this on the wrong side of a target, a split tells little of the rate there."""


def choose_threshold(log_odds: Array, positive: Flags, rate: Rate, at_least: float) -> float:
    """The threshold that holds one rate and has the best other one, in log-odds; half way between two images.

    Of thresholds that are equally good in the other rate, the one with the best held rate. The class is said where the
    log-odds are at least the threshold; one above all images holds any specificity, and one below all any sensitivity.

    Args:
        log_odds: of the class [N].
        positive: whether an image is of the class [N], some of them and not all.
        rate: that is to be held.
        at_least: its target.
    """
    log_odds = np.clip(log_odds, -FARTHEST, FARTHEST)
    values = np.unique(log_odds)
    thresholds = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    hits, misses = np.sort(log_odds[positive]), np.sort(log_odds[~positive])
    sensitivity = (len(hits) - np.searchsorted(hits, thresholds)) / len(hits)
    specificity = np.searchsorted(misses, thresholds) / len(misses)
    held, other = (specificity, sensitivity) if rate == "specificity" else (sensitivity, specificity)
    holding = np.flatnonzero(held >= at_least)
    best = max(holding, key=lambda place: (other[place], held[place]))
    return float(thresholds[best])


def rates(said: Flags, positive: Flags, groups: Sequence[str] | None) -> dict[str, Any]:
    """``sensitivity`` and ``specificity`` with ``intervals`` (95 %, exact; of groups as few as they are) and counts.

    Args:
        said: whether an image is taken for the class [N].
        positive: whether it is of the class [N].
        groups: of each image, or None where all are independent.
    """
    found: dict[str, Any] = {"intervals": {}}
    for rate, among, right in (("sensitivity", positive, said), ("specificity", ~positive, ~said)):
        hits = right[among].astype(np.float64)
        value = float(hits.mean())
        of = None if groups is None else [group for group, there in zip(groups, among, strict=True) if there]
        found[rate] = value
        found["intervals"][rate] = list(bounded_interval(value, hits - value, len(hits), of))
    return found | {"images": int(positive.sum()), "others": int((~positive).sum())}


def operating_note(rate: Rate, at_least: float, reached: dict[str, Any], units: int) -> str:
    """A sentence where validation can't tell whether the target holds; empty where it can.

    Args:
        rate: that is held.
        at_least: its target.
        reached: what :func:`rates` says of validation.
        units: independent images, or groups, that the held rate is measured on.
    """
    low, high = reached["intervals"][rate]
    seen = f"on validation it is {reached[rate]:.1%} (95 % interval {low:.1%} to {high:.1%})"
    other: Rate = "sensitivity" if rate == "specificity" else "specificity"
    if reached[rate] < at_least:
        return f"no threshold holds a {rate} of {at_least:g}: {seen}"
    if reached[other] == 0:
        return f"only a threshold with a {other} of 0 holds a {rate} of {at_least:g} on validation"
    if round(units * (1 - at_least), 9) < FEW:
        return f"{units:,} independent validation images tell little of a {rate} of {at_least:g}: {seen}"
    return ""
