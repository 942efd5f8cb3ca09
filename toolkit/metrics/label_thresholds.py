"""From which logit on a label is said: chosen on validation for the best F1, or for a precision that surely holds."""

# N images

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from toolkit.metrics.intervals import Array, bounded_interval

Flags = npt.NDArray[np.bool_]
CONFIDENCE = 0.95
"""With which a precision is at least the one that is asked for (one-sided)."""


@dataclass(frozen=True)
class ChosenCut:
    """Where a label's logits are cut."""

    cut: float | None
    """The label is said from this logit on, in single precision; None where nothing reaches the aim."""
    best: float | None
    """The best value of the aim (F1, or the lower bound of the precision) that any cut has; None without its images."""


def choose_cut(
    logits: npt.NDArray[np.float32], positive: Flags, precision: float | None, groups: Sequence[str] | None = None
) -> ChosenCut:
    """The cut with the best F1 or, with a precision, the best recall among those that hold it.

    A precision holds where the lower end of its exact interval (Clopper and Pearson, one-sided 95 %) reaches it. Cuts
    lie half way between an image of the label and the next lower logit: no other has a better recall or F1.

    Args:
        logits: of the label [N].
        positive: whether an image shows it [N].
        precision: that is asked for; None for the best F1.
        groups: of each image; images of one group count as fewer.
    """
    if not positive.any():
        return ChosenCut(None, None)
    values = np.unique(logits)
    order = np.sort(logits)
    hits_sorted = np.sort(logits[positive])
    starts = np.unique(logits[positive])
    claims = len(order) - np.searchsorted(order, starts)
    hits = len(hits_sorted) - np.searchsorted(hits_sorted, starts)
    if precision is None:
        reached = 2.0 * hits / (claims + len(hits_sorted))
        place = int(np.flatnonzero(reached == reached.max())[-1])  # of equal ones the most precise
        return ChosenCut(_between(values, starts[place]), float(reached[place]))
    bounds = lower_bounds(hits, claims) if groups is None else _by_group(logits, positive, starts, groups)
    holding = np.flatnonzero(bounds >= precision)
    best = float(bounds.max())
    return ChosenCut(_between(values, starts[holding[0]]) if len(holding) else None, best)


def lower_bounds(hits: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> Array:
    """Lower ends of the exact one-sided 95 % intervals of shares; 0 without a hit."""
    with np.errstate(invalid="ignore"):
        found = betaincinv(np.maximum(hits, 1), of - hits + 1, 1 - CONFIDENCE)
    return np.where(hits > 0, found, 0.0)


def _by_group(
    logits: npt.NDArray[np.float32], positive: Flags, starts: npt.NDArray[np.float32], groups: Sequence[str]
) -> Array:
    """The same at each of the cuts, of images in groups."""
    names = np.array(groups)
    found = np.zeros(len(starts))
    for place, start in enumerate(starts):
        said = logits >= start
        right = positive[said].astype(np.float64)
        share = float(right.mean())
        level = 2 * CONFIDENCE - 1
        found[place] = bounded_interval(share, right - share, len(right), names[said].tolist(), level)[0]
    return found


def _between(values: npt.NDArray[np.float32], start: np.float32) -> float:
    """Half way between a logit and the next lower one, in single precision; the logit itself if nothing is between."""
    place = int(np.searchsorted(values, start))
    lower = values[place - 1] if place else start - np.float32(1)
    middle = np.float32((np.float64(lower) + np.float64(start)) / 2)
    return float(middle if lower < middle <= start else start)
