"""Intervals of shares and means: their coverage, computed exactly, and what groups do to them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from toolkit.metrics.intervals import (
    bounded_interval,
    effective_images,
    exact_interval,
    images_needed,
    mean_interval,
    paired_drop,
)


def of_share(right: int, images: int, groups: list[str] | None = None) -> tuple[float, float]:
    hits = np.arange(images) < right
    return bounded_interval(right / images, hits - right / images, images, groups)


@pytest.mark.parametrize("images", [1, 2, 50, 300])
def test_the_interval_of_a_share_is_the_exact_one(images: int) -> None:
    for right in range(images + 1):
        exact = stats.binomtest(right, images).proportion_ci(0.95, method="exact")
        assert of_share(right, images) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("images", [50, 300, 3000])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.99, 0.998])
def test_it_holds_the_true_share_in_at_least_95_percent(images: int, share: float) -> None:
    rights = np.arange(images + 1)
    likely = rights[stats.binom.pmf(rights, images, share) > 1e-9]
    held = [low <= share <= high for low, high in (of_share(int(right), images) for right in likely)]
    assert float(stats.binom.pmf(likely, images, share)[held].sum()) >= 0.95


def test_images_need_not_be_whole() -> None:
    between = exact_interval(0.9, 55.5)
    assert exact_interval(0.9, 50)[0] < between[0] < exact_interval(0.9, 60)[0]
    assert exact_interval(1.0, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert exact_interval(0.0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_copies_in_a_group_count_once() -> None:
    hits = np.tile(np.arange(40) < 30, 8)
    groups = [str(index % 40) for index in range(320)]
    low, high = bounded_interval(0.75, hits - 0.75, 320, groups)
    alone = of_share(30, 40)
    assert (low, high) == pytest.approx(alone, abs=0.02)
    nothing_wrong = bounded_interval(1.0, np.zeros(320), 320, groups)
    assert nothing_wrong == (pytest.approx(0.025 ** (1 / 40), abs=0.01), 1.0)


def test_groups_of_one_change_nothing_and_one_group_says_next_to_nothing() -> None:
    assert of_share(45, 50, [str(index) for index in range(50)]) == pytest.approx(of_share(45, 50), abs=0.003)
    assert effective_images(50, np.zeros(50), ["same"] * 50) == 1.0
    low, high = of_share(45, 50, ["same"] * 50)
    assert high - low > 0.9


def test_coverage_with_groups_that_fail_together() -> None:
    """Groups of ten images whose own accuracies scatter: the exact interval of all images would hold far less often."""
    rng = np.random.default_rng(0)
    groups = [str(index // 10) for index in range(300)]
    held, naive = [], []
    for _ in range(400):
        hits = rng.random(300) < np.repeat(rng.beta(9.0, 1.0, 30), 10)
        value = float(hits.mean())
        (low, high), (least, most) = bounded_interval(value, hits - value, 300, groups), exact_interval(value, 300)
        held.append(low <= 0.9 <= high)
        naive.append(least <= 0.9 <= most)
    assert np.mean(held) >= 0.93
    assert np.mean(naive) < 0.9


def test_no_discordant_image_among_256_leaves_up_to_1_2_points() -> None:
    right = np.arange(256) < 240
    drop = paired_drop(right, right, None)
    assert drop.value == 0
    assert drop.at_most == pytest.approx(1 - 0.05 ** (1 / 256))
    assert round(100 * drop.at_most, 1) == 1.2
    assert drop.interval == (pytest.approx(-(1 - 0.025 ** (1 / 256))), pytest.approx(1 - 0.025 ** (1 / 256)))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 1), (10, 10), (40, 5)])
def test_a_drop_lies_in_its_interval_and_below_its_bound(lost: int, won: int) -> None:
    before, after = np.ones(500, bool), np.ones(500, bool)
    after[:lost] = False
    before[lost : lost + won] = False
    drop = paired_drop(before, after, None)
    assert drop.value == (lost - won) / 500
    assert drop.interval[0] <= drop.value <= drop.at_most <= drop.interval[1]


@pytest.mark.parametrize(("lose", "win"), [(0.004, 0.0), (0.01, 0.01), (0.05, 0.02)])
def test_the_bound_of_a_drop_holds_in_95_percent(lose: float, win: float) -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        kinds = rng.random(256)
        before, after = ~((kinds >= lose) & (kinds < lose + win)), ~(kinds < lose)
        held.append(paired_drop(before, after, None).at_most >= lose - win)
    assert np.mean(held) >= 0.93


def test_images_that_decide_a_budget() -> None:
    assert images_needed(0.01) == 299
    right = np.ones(299, bool)
    assert paired_drop(right, right, None).at_most <= 0.01
    assert paired_drop(right[1:], right[1:], None).at_most > 0.01


def test_a_mean_of_losses_is_held_in_about_95_percent() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(500):
        low, high = mean_interval(rng.exponential(0.3, 200))
        held.append(low <= 0.3 <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_mean_of_one_value_or_of_zeros() -> None:
    assert mean_interval(np.zeros(5)) == (0.0, 0.0)
    assert mean_interval(np.array([0.5])) == (0.0, float("inf"))
