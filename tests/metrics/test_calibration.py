"""The calibration error: no bias where the classifier is calibrated, and an interval that holds it."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.metrics.calibration import calibration_error


def drawn(images: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether images are right: as often as stated less ``shift``."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.6, 0.95, images)
    return confidence, rng.random(images) < confidence - shift


@pytest.mark.parametrize("images", [50, 300, 3000])
def test_a_calibrated_classifier_is_told_less_than_its_binned_error(images: int) -> None:
    found = [calibration_error(*drawn(images, 0.0, seed)) for seed in range(100)]
    binned = np.mean([each.binned for each in found])
    assert np.mean([each.value for each in found]) < binned / 2
    assert np.mean([each.interval[0] == 0 for each in found]) >= 0.93  # the true error is 0


@pytest.mark.parametrize("images", [300, 3000])
@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_an_overconfident_one_is_told_its_error(images: int, shift: float) -> None:
    found = [calibration_error(*drawn(images, shift, seed)) for seed in range(100)]
    assert np.mean([each.value for each in found]) == pytest.approx(shift, abs=0.01)
    assert np.mean([each.interval[0] <= shift <= each.interval[1] for each in found]) >= 0.93


@pytest.mark.parametrize("images", [1, 2, 19, 40, 1000])
def test_the_interval_holds_its_point(images: int) -> None:
    for seed in range(20):
        found = calibration_error(*drawn(images, 0.05, seed))
        assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1
        assert found.value <= found.binned + 1e-9
        assert found.share.sum() == pytest.approx(1)


def test_bins_hold_equally_many_images_and_equal_confidences_share_one() -> None:
    confidence, right = drawn(3000, 0.0, 0)
    assert calibration_error(confidence, right).share == pytest.approx(np.full(15, 1 / 15), abs=1e-3)
    confidence[:2000] = 1.0
    shares = calibration_error(confidence, right).share
    assert shares.max() == pytest.approx(2 / 3, abs=0.07)
    assert len(shares) < 15


def test_the_order_of_the_images_does_not_matter() -> None:
    confidence, right = drawn(500, 0.1, 0)
    confidence = np.round(confidence, 2)
    order = np.random.default_rng(1).permutation(500)
    one, other = calibration_error(confidence, right), calibration_error(confidence[order], right[order])
    assert one.value == pytest.approx(other.value, abs=1e-9)


def test_certain_and_right_is_calibrated() -> None:
    found = calibration_error(np.ones(100), np.ones(100, bool))
    assert (found.value, found.binned) == (0.0, 0.0)


def test_groups_widen_the_interval() -> None:
    confidence, right = drawn(100, 0.1, 0)
    confidence, right = np.tile(confidence, 8), np.tile(right, 8)
    groups = [str(index % 100) for index in range(800)]
    alone, together = (calibration_error(confidence, right, each).interval for each in (None, groups))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_luck_is_not_taken_for_certainty() -> None:
    """Right exactly as often as it says in every bin, which chance alone would not give."""
    confidence = np.linspace(0.3, 1.0, 360)
    right = np.diff(np.floor(np.cumsum(confidence)), prepend=0) > 0
    error = calibration_error(confidence, right)
    assert error.value == error.interval[0] == 0
    usual = [
        calibration_error(confidence, np.random.default_rng(seed).random(360) < confidence).interval[1]
        for seed in range(21)
    ]
    assert error.interval[1] >= 0.9 * float(np.median(usual))
