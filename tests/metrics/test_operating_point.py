"""A threshold against all others that there are, and what it says of few images."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.metrics.intervals import exact_interval
from toolkit.metrics.operating_point import Rate, choose_threshold, operating_note, rates


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rate", ["sensitivity", "specificity"])
@pytest.mark.parametrize("at_least", [0.5, 0.7, 0.9, 0.99])
def test_no_threshold_that_holds_the_target_has_a_better_other_rate(seed: int, rate: Rate, at_least: float) -> None:
    rng = np.random.default_rng(seed)
    positive = np.arange(40) < rng.integers(1, 40)
    log_odds = np.round(rng.normal(positive * 1.5, 1), 1)  # with ties
    other = "specificity" if rate == "sensitivity" else "sensitivity"
    found = rates(log_odds >= choose_threshold(log_odds, positive, rate, at_least), positive, None)
    assert found[rate] >= at_least
    for threshold in np.arange(-6, 6, 0.05) + 0.025:
        tried = rates(log_odds >= threshold, positive, None)
        assert tried[rate] < at_least or tried[other] <= found[other]


def test_it_lies_half_way_between_two_images_and_beyond_them_where_nothing_else_holds() -> None:
    positive = np.array([False, False, True, True])
    assert choose_threshold(np.array([-2.0, -1.0, 1.0, 2.0]), positive, "specificity", 0.9) == 0.0
    assert choose_threshold(np.array([1.0, 2.0, -2.0, -1.0]), positive, "specificity", 0.9) == 3.0
    assert choose_threshold(np.array([1.0, 2.0, -2.0, -1.0]), positive, "sensitivity", 0.9) == -3.0


def test_certain_probabilities_leave_a_threshold_that_a_probability_can_say() -> None:
    positive = np.array([False, True])
    threshold = choose_threshold(np.array([900.0, 800.0]), positive, "specificity", 0.9)
    assert 0 < 1 / (1 + np.exp(-threshold)) < 1


def test_rates_are_shares_with_exact_intervals_and_wider_ones_of_groups() -> None:
    positive, said = np.arange(100) < 40, np.arange(100) % 10 < 8
    alone = rates(said, positive, None)
    assert (alone["sensitivity"], alone["specificity"]) == (0.8, pytest.approx(0.2))
    assert (alone["images"], alone["others"]) == (40, 60)
    assert alone["intervals"]["sensitivity"] == pytest.approx(exact_interval(0.8, 40))
    grouped = rates(said, positive, [str(place // 4) for place in range(100)])
    assert (grouped["sensitivity"], grouped["specificity"]) == (alone["sensitivity"], alone["specificity"])
    for rate in ("sensitivity", "specificity"):
        (low, high), (wide_low, wide_high) = alone["intervals"][rate], grouped["intervals"][rate]
        assert wide_low < low
        assert high < wide_high


@pytest.mark.parametrize(
    ("said", "units", "says"),
    [
        (lambda positive: positive, 8, "8 independent validation images tell little of a specificity of 0.9"),
        (lambda positive: positive & False, 500, "only a threshold with a sensitivity of 0"),
        (lambda positive: positive | True, 500, "no threshold holds a specificity of 0.9"),
        (lambda positive: positive, 50, ""),
    ],
    ids=["few", "never", "not held", "enough"],
)
def test_what_validation_can_not_tell_is_said(said, units: int, says: str) -> None:  # type: ignore[no-untyped-def]
    positive = np.arange(1000) < 500
    note = operating_note("specificity", 0.9, rates(said(positive), positive, None), units)
    assert note.startswith(says)
    assert bool(note) == bool(says)
