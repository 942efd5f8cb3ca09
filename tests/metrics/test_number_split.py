"""Metrics of numbers: equal to scikit-learn's and scipy's, and intervals that hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from toolkit.metrics.number_split import NumberScores


def numbers(images: int, seed: int = 0, noise: float = 0.7, offset: float = 2000.0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted numbers [N, 1] and true ones."""
    rng = np.random.default_rng(seed)
    labels = offset + 3 * rng.normal(size=images)
    return (labels + noise * rng.normal(size=images))[:, None].astype(np.float32), labels


@pytest.mark.parametrize("noise", [0.01, 0.7, 9.0])
def test_metrics_equal_scikit_learn_and_scipy(noise: float) -> None:
    values, labels = numbers(301, noise=noise)
    found, said = NumberScores(values, labels).metrics(), values[:, 0].astype(np.float64)
    expected = {
        "mae": sk.mean_absolute_error(labels, said),
        "rmse": sk.root_mean_squared_error(labels, said),
        "r2": sk.r2_score(labels, said),
        "spearman": stats.spearmanr(labels, said).statistic,
        "loss": sk.mean_squared_error(labels, said),
        "mean_baseline_mae": sk.mean_absolute_error(labels, np.full_like(labels, labels.mean())),
        "images": 301,
    }
    assert found == pytest.approx(expected, abs=1e-6)
    for name, (low, high) in NumberScores(values, labels).intervals().items():
        assert low <= found[name] <= high, name


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = NumberScores(*numbers(400_000, seed=99, offset=0.0)).metrics()
    held: dict[str, list[bool]] = {}
    for seed in range(400):
        for name, (low, high) in NumberScores(*numbers(100, seed=seed, offset=0.0)).intervals().items():
            held.setdefault(name, []).append(low <= truth[name] <= high)
    shares = {name: float(np.mean(each)) for name, each in held.items()}
    assert all(0.91 <= share <= 0.99 for share in shares.values()), shares


def test_copies_in_groups_tell_no_more_than_one_of_them() -> None:
    values, labels = numbers(100)
    once = NumberScores(values, labels).intervals()
    names = np.repeat([str(each) for each in range(100)], 4).tolist()
    copies = NumberScores(np.repeat(values, 4, 0), np.repeat(labels, 4), groups=names).intervals()
    for name, ends in copies.items():
        assert ends == pytest.approx(once[name], rel=0.02), name


def test_equal_numbers_have_no_variance_to_explain() -> None:
    scores = NumberScores(np.zeros((5, 1)), np.ones(5))
    assert math.isnan(scores.metrics()["r2"])
    assert math.isnan(scores.metrics()["spearman"])
    assert all(map(math.isnan, scores.intervals()["r2"]))
    assert scores.metrics()["mae"] == 1
