from __future__ import annotations

import numpy as np
import pytest

from export.latency.statistics import CHUNK, chunk_length, percentiles


def test_percentiles_are_those_of_all_runs_in_milliseconds() -> None:
    times = np.random.default_rng(0).gamma(4, 0.002, 2000)
    times[::500] = 1.0  # nothing is left out as an outlier
    metrics = percentiles(times.tolist())
    assert metrics["p50_ms"] == pytest.approx(1000 * np.median(times))
    assert metrics["p99_9_ms"] == pytest.approx(1000 * np.percentile(times, 99.9))
    assert metrics["max_ms"] == 1000
    assert metrics["mean_ms"] == pytest.approx(1000 * times.mean())


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


def waits(load: float, count: int, seed: int) -> np.ndarray:
    """Seconds from arrival to answer in a queue whose server takes one second (Lindley's recursion)."""
    found, wait = [], 0.0
    for gap in np.random.default_rng(seed).exponential(1 / load, count):
        wait = max(0.0, wait + 1.0 - gap)
        found.append(wait + 1.0)
    return np.array(found)


def test_what_is_drawn_together_lasts_as_long_as_neighbours_resemble_each_other() -> None:
    rng = np.random.default_rng(3)
    assert chunk_length(rng.exponential(1.0, 2000)) == CHUNK
    assert chunk_length(np.ones(2000)) == CHUNK
    assert 30 <= chunk_length(np.repeat(rng.exponential(1.0, 500), 20)) <= 80
    assert chunk_length(np.repeat(rng.exponential(1.0, 5), 20)) == 10  # ten chunks at least
    assert chunk_length(rng.exponential(1.0, 3)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_queue_near_saturation_needs_longer_chunks_than_one_at_rest(seed: int) -> None:
    at_rest, busy = (chunk_length(waits(load, 5000, seed)) for load in (0.3, 0.9))
    assert at_rest <= 2 * CHUNK
    assert busy >= 5 * CHUNK


def test_an_outlier_does_not_hide_that_the_rest_moves_together() -> None:
    steps = np.repeat(np.random.default_rng(4).exponential(1.0, 100), 20)
    steps[1000] = 1e6
    assert chunk_length(steps) >= 20
