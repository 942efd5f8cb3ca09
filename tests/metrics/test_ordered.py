"""Numbers beside the true ones: equal to scikit-learn's and scipy's, with influences that are their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from toolkit.metrics.ordered import Agreement, quadratic_kappa, spearman
from toolkit.metrics.ordinal_split import ORDERED, OrdinalSplitScores
from toolkit.metrics.split import METRICS, SplitScores, score_by
from toolkit.ordered import log_odds_beyond, log_probabilities, median_of

MEASURES = pytest.mark.parametrize("measure", [quadratic_kappa, spearman])


def grades(images: int, classes: int = 5, seed: int = 0, spread: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted grades."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    return labels, np.clip(np.rint(labels + rng.normal(0, spread, images)), 0, classes - 1).astype(int)


def logits_of(images: int, classes: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (images, classes)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
@pytest.mark.parametrize("spread", [0.0, 0.4, 3.0])
def test_they_equal_scikit_learn_and_scipy(classes: int, spread: float) -> None:
    labels, predicted = grades(257, classes, seed=classes, spread=spread)
    kappa = sk.cohen_kappa_score(labels, predicted, labels=range(classes), weights="quadratic")
    assert quadratic_kappa(labels, predicted).value == pytest.approx(kappa, abs=1e-9)
    assert spearman(labels, predicted).value == pytest.approx(stats.spearmanr(labels, predicted).statistic, abs=1e-9)
    numbers = np.random.default_rng(1).normal(size=257)
    assert spearman(labels, numbers).value == pytest.approx(stats.spearmanr(labels, numbers).statistic, abs=1e-9)


@MEASURES
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_influences_are_what_an_image_changes(
    measure: Callable[[np.ndarray, np.ndarray], Agreement], spread: float
) -> None:
    labels, predicted = grades(1500, spread=spread)
    found = measure(labels, predicted)
    assert found.influence.mean() == pytest.approx(0, abs=1e-9)
    places = range(0, 1500, 50)
    left_out = [measure(np.delete(labels, i), np.delete(predicted, i)).value for i in places]
    expected = (len(labels) - 1) * (found.value - np.array(left_out))
    np.testing.assert_allclose(found.influence[places], expected, atol=0.02 * np.abs(found.influence).max())


@MEASURES
def test_their_intervals_hold_the_truth_as_often_as_they_say(
    measure: Callable[[np.ndarray, np.ndarray], Agreement],
) -> None:
    truth = measure(*grades(400_000, seed=99)).value
    held = []
    for seed in range(400):
        low, high = measure(*grades(150, seed=seed)).interval()
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.985


@MEASURES
def test_copies_in_groups_tell_no_more_than_one_of_them(
    measure: Callable[[np.ndarray, np.ndarray], Agreement],
) -> None:
    labels, predicted = grades(200)
    once = measure(labels, predicted).interval()
    copies = measure(np.repeat(labels, 4), np.repeat(predicted, 4))
    names = np.repeat([str(each) for each in range(200)], 4).tolist()
    assert copies.interval(names) == pytest.approx(once, abs=0.01)
    assert np.diff(copies.interval())[0] < 0.7 * np.diff(once)[0]


@MEASURES
def test_predictions_of_one_class_say_nothing(measure: Callable[[np.ndarray, np.ndarray], Agreement]) -> None:
    both = measure(np.ones(9), np.ones(9))
    assert math.isnan(both.value)
    assert all(map(math.isnan, both.interval()))


def test_an_epoch_without_a_correlation_is_the_worst_and_a_small_distance_the_best() -> None:
    nothing = score_by("spearman", {"spearman": math.nan, "loss": 0.1})
    assert nothing < score_by("spearman", {"spearman": -0.9, "loss": 5.0})
    for name in ("mae", "rmse"):
        assert score_by(name, {name: 0.2, "loss": 1.0}) > score_by(name, {name: 0.3, "loss": 0.5})


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_temperature_divides_the_log_odds_and_moves_no_median(classes: int, scale: float) -> None:
    logits = logits_of(300, classes, scale=scale)
    at_one = log_probabilities(logits, 1.0)
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(at_one, expected, atol=1e-6)
    for temperature in (0.3, 4.0):
        found = log_probabilities(logits, temperature)
        np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-9)
        np.testing.assert_allclose(log_odds_beyond(found), log_odds_beyond(logits) / temperature, rtol=1e-6, atol=1e-6)
        assert (median_of(found) == median_of(logits)).all()


def test_the_median_has_the_smallest_expected_distance() -> None:
    logits = logits_of(500, 6)
    shares = np.exp(log_probabilities(logits, 1.0))
    distances = np.abs(np.arange(6)[:, None] - np.arange(6))
    assert (median_of(logits) == (shares @ distances).argmin(-1)).all()


def test_a_class_that_is_all_but_impossible_between_two_likely_ones_keeps_its_probability() -> None:
    found = log_probabilities(np.array([[0.0, -60.0, 0.0]]), 1.0)
    assert found[0].tolist() == pytest.approx([math.log(0.5), math.log(0.5) - 60, math.log(0.5)], rel=1e-12)
    assert np.isfinite(log_probabilities(np.array([[0.0, -2000.0, 0.0]]), 0.1)).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_split_has_all_metrics_and_intervals_that_hold_them(temperature: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=301)
    logits = logits_of(301, 4) - 2.0 * np.abs(np.arange(4) - labels[:, None])
    scores = OrdinalSplitScores(logits, labels, temperature)
    metrics, intervals = scores.metrics(), scores.intervals()
    predicted = median_of(logits)
    assert list(metrics) == list(OrdinalSplitScores.names)
    assert set(metrics) == {*METRICS, *ORDERED}
    assert metrics["mae"] == pytest.approx(sk.mean_absolute_error(labels, predicted), abs=1e-12)
    assert metrics["accuracy"] == sk.accuracy_score(labels, predicted)
    kappa = sk.cohen_kappa_score(labels, predicted, labels=range(4), weights="quadratic")
    assert metrics["quadratic_kappa"] == pytest.approx(kappa, abs=1e-6)
    assert metrics["spearman"] == pytest.approx(stats.spearmanr(labels, predicted).statistic, abs=1e-6)
    shares = np.exp(log_probabilities(logits, temperature))
    assert metrics["nll"] == pytest.approx(sk.log_loss(labels, shares, labels=range(4)), abs=1e-6)
    assert metrics["auroc"] == pytest.approx(sk.roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-6)
    for name, (low, high) in intervals.items():
        assert low <= metrics[name] <= high, name
    classes, chances = scores.likeliest(4)
    np.testing.assert_allclose(chances, np.take_along_axis(shares, classes, 1), atol=1e-12)


def test_two_classes_are_scored_as_single_labels_are() -> None:
    logits, labels = logits_of(101, 2), np.random.default_rng(3).integers(2, size=101)
    plain = SplitScores(logits, labels, 1.7).metrics()
    ordered = OrdinalSplitScores(logits, labels, 1.7).metrics()
    assert {name: ordered[name] for name in METRICS} == pytest.approx(plain, abs=1e-9)
    assert ordered["mae"] == pytest.approx(1 - plain["accuracy"])


def test_no_error_still_leaves_a_distance_possible() -> None:
    labels = np.arange(60) % 3
    scores = OrdinalSplitScores(20.0 * np.eye(3)[labels], labels)
    low, high = scores.intervals(["mae"])["mae"]
    assert (scores.metrics(["mae"])["mae"], low) == (0, 0)
    assert high == pytest.approx(2 * (1 - 0.025 ** (1 / 60)), rel=1e-6)
