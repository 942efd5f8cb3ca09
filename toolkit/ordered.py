"""Probabilities of ordered classes, by the odds that a class is passed: what metrics, decision and calibration share.

For K classes in order a distribution is as well said by K - 1 log-odds, of lying beyond the first class, beyond the
second, and so on. They fall from one to the next, which stays true when all of them are divided by a temperature:
so a temperature moves no median, and classes keep their order.
"""

# N images, K classes

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
LEAST = 1e-300
"""Stands for differences of log-odds that a double holds no smaller."""


def log_odds_beyond(logits: npt.NDArray[Any]) -> Float64:
    """Log-odds of lying beyond each class but the last [N, K - 1], of logits [N, K] whose softmax the classes have."""
    values = np.asarray(logits, np.float64)
    up_to = np.logaddexp.accumulate(values, axis=-1)
    from_here = np.logaddexp.accumulate(values[:, ::-1], axis=-1)[:, ::-1]
    odds: Float64 = from_here[:, 1:] - up_to[:, :-1]
    return odds


def median_of(logits: npt.NDArray[Any]) -> Integers:
    """The median class [N]: the first that is more likely than not to be passed by none.

    Of all classes it has the smallest expected distance to the true one.
    """
    beyond: Integers = (log_odds_beyond(logits) > 0).sum(-1, dtype=np.int64)
    return beyond


def log_probabilities(logits: npt.NDArray[Any], temperature: float) -> Float64:
    """Log-probabilities of the classes [N, K] whose log-odds of being passed are those of logits over a temperature.

    With p the probability of a class, B what lies below it and A what lies above, its two log-odds differ by
    ``log(1 + p / B) + log(1 + p / A)``, which is exact also where p is far smaller than a rounding of A or B.
    """
    values = np.asarray(logits, np.float64)
    odds = log_odds_beyond(values) / temperature
    found = np.zeros_like(values)
    found[:, :-1] -= np.logaddexp(0.0, odds)  # it does not lie beyond the class
    found[:, 1:] -= np.logaddexp(0.0, -odds)  # it lies beyond the class before
    if values.shape[1] > 2:
        below = np.logaddexp.accumulate(values, axis=-1)[:, :-2]
        above = np.logaddexp.accumulate(values[:, ::-1], axis=-1)[:, ::-1][:, 2:]
        inner = values[:, 1:-1]
        apart = np.logaddexp(0.0, inner - below) + np.logaddexp(0.0, inner - above)
        found[:, 1:-1] += np.log(-np.expm1(-np.maximum(apart / temperature, LEAST)))
    return found
