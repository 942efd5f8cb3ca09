"""AUROC and average precision of a class, and how each image's weight moves them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from toolkit.metrics.ranking import POINTS, rank_class


def scored(images: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(images) < 0.3
    return np.round(rng.normal(size=images) + positive, 1), positive  # rounded: some scores are equal


def test_both_equal_scikit_learn() -> None:
    for seed in range(5):
        scores, positive = scored(seed=seed)
        found = rank_class(scores, positive)
        assert found.auroc == pytest.approx(sk.roc_auc_score(positive, scores), abs=1e-12)
        assert found.average_precision == pytest.approx(sk.average_precision_score(positive, scores), abs=1e-12)


def test_an_influence_is_the_derivative_by_an_images_weight() -> None:
    scores, positive = scored()
    found = rank_class(scores, positive)
    assert found.auroc_influence.mean() == pytest.approx(0, abs=1e-12)
    assert found.average_precision_influence.mean() == pytest.approx(0, abs=1e-12)
    step = 1e-6
    for index in (0, 3, 17, 50, 99, *np.flatnonzero(positive)[:4].tolist()):
        weights = np.ones(len(scores))
        weights[index] += step
        auroc = (sk.roc_auc_score(positive, scores, sample_weight=weights) - found.auroc) / step
        average = (sk.average_precision_score(positive, scores, sample_weight=weights) - found.average_precision) / step
        assert found.auroc_influence[index] / len(scores) == pytest.approx(auroc, abs=1e-6)
        assert found.average_precision_influence[index] / len(scores) == pytest.approx(average, abs=1e-6)


def test_curves_have_the_areas() -> None:
    scores, positive = scored(2000)
    found = rank_class(scores, positive)
    grid = np.linspace(0, 1, POINTS)
    assert np.trapezoid(found.roc, grid) == pytest.approx(found.auroc, abs=2e-3)
    assert np.trapezoid(found.precision_recall, grid) == pytest.approx(found.average_precision, abs=5e-3)


@pytest.mark.parametrize("value", [True, False])
def test_a_class_without_images_or_without_others_has_no_auroc(value: bool) -> None:
    found = rank_class(np.arange(5.0), np.full(5, value))
    assert np.isnan(found.auroc)
    assert np.isnan(found.average_precision) == (not value)
