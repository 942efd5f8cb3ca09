from __future__ import annotations

import numpy as np
import pytest

from export.latency.statistics import percentiles


def test_percentiles_are_those_of_all_runs_in_milliseconds() -> None:
    times = np.random.default_rng(0).gamma(4, 0.002, 2000)
    times[::500] = 1.0  # nothing is left out as an outlier
    figures = percentiles(times.tolist())
    assert figures["p50_ms"] == pytest.approx(1000 * np.median(times))
    assert figures["p99_9_ms"] == pytest.approx(1000 * np.percentile(times, 99.9))
    assert figures["max_ms"] == 1000
    assert figures["mean_ms"] == pytest.approx(1000 * times.mean())


def test_p99_9_of_few_runs_is_not_told() -> None:
    assert percentiles([0.01] * 999)["p99_9_ms"] is None
    assert percentiles([0.01] * 1000)["p99_9_ms"] == 10


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = percentiles(rng.exponential(1.0, 200).tolist())["intervals"]["p50_ms"]
        held += low <= 1000 * np.log(2) <= high
    assert held >= 178  # 95 % of 200 less four standard deviations


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    """A disturbance of 20 runs counts as one event, not as twenty."""
    rng = np.random.default_rng(2)
    stretches = np.repeat(rng.exponential(1.0, 50), 20)
    mixed = rng.permutation(stretches)
    width = [np.diff(percentiles(each.tolist())["intervals"]["p50_ms"])[0] for each in (stretches, mixed)]
    assert width[0] > 2 * width[1]
