from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.latency.measure import MinSamples
from export.latency.pool import Pool, golden_contents, pool_of
from export.latency.queueing import Limits, Queue, RequestImages, Seconds, poisson_arrivals
from export.latency.runner import Runner, onnxruntime_engine
from export.latency.scenarios.server import Server, find_rate, holds, saturate, serve
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle

POOL = Pool([], [{"image": np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)}], "here")


def fake(run: Callable[[Any], Any]) -> Runner:
    return Runner("fake", "fp32", "cpu", 1, run)


class FakeTime:
    """A clock that goes on only when somebody sleeps or works."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-9)


def simulate(
    arrivals: Seconds, end: float, service: Callable[[list[int]], float], limits: Limits, shapes: int = 1
) -> tuple[Queue, dict[int, float], list[list[int]]]:
    """A server of one session in simulated time: the queue, the time at which each request was done, the batches."""
    clock = FakeTime(min(0.0, float(arrivals[0])))
    queue = Queue(arrivals, end, lambda request: request % shapes, limits, clock=clock, sleep=clock.sleep)
    done, batches = {}, []
    while taken := queue.take():
        assert queue.waiting <= limits.waiting
        clock.now += service(taken)
        batches.append(taken)
        done |= dict.fromkeys(taken, clock.now)
    return queue, done, batches


def test_arrivals_are_poisson_and_repeat_with_the_seed() -> None:
    times = poisson_arrivals(50.0, -10, 190, seed=3)
    assert np.array_equal(times, poisson_arrivals(50.0, -10, 190, seed=3))
    assert not np.array_equal(times[:100], poisson_arrivals(50.0, -10, 190, seed=4)[:100])
    assert (np.diff(times) > 0).all()
    assert times[0] > -10
    assert times[-1] < 190
    assert abs(len(times) - 10_000) < 5 * 100  # a Poisson count of mean 10,000 has standard deviation 100
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    counts = np.histogram(times, bins=200)[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.5)


def test_half_the_rate_is_the_same_arrivals_twice_as_slow() -> None:
    fast, slow = poisson_arrivals(40, 0, 10, seed=0), poisson_arrivals(20, 0, 20, seed=0)
    count = min(len(fast), len(slow), 300)
    np.testing.assert_allclose(2 * fast[:count], slow[:count])


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.9])
def test_offered_and_achieved_load_agree_below_saturation(load: float) -> None:
    rate, seconds = 100 * load, 50.0
    arrivals = poisson_arrivals(rate, -5, seconds, seed=0)
    queue, done, _ = simulate(arrivals, seconds, lambda _: 0.01, Limits(1, 4096, 1, 25.0))
    assert not queue.saturated
    assert len(done) == len(arrivals)
    achieved = sum(0 <= at < seconds for at in done.values())
    assert achieved == pytest.approx(queue.requests, rel=0.02)


def test_at_twice_saturation_the_run_ends_with_its_window() -> None:
    arrivals = poisson_arrivals(200, -1, 10, seed=0)
    queue, done, _ = simulate(arrivals, 10.0, lambda _: 0.01, Limits(1, 4096, 1, 5.0))
    assert queue.saturated
    assert queue.dropped == 0
    assert max(done.values()) < 10.02
    assert len(done) < 0.6 * len(arrivals)


def test_the_backlog_is_bounded_and_what_finds_it_full_is_dropped() -> None:
    arrivals = np.arange(100) / 100
    queue, done, _ = simulate(arrivals, 1.0, lambda _: 10.0, Limits(1, 5, 1, 1.0))
    assert queue.saturated
    assert queue.waiting == 5
    assert queue.dropped == 100 - len(done) - 5


def test_waiting_starts_with_the_scheduled_arrival() -> None:
    arrivals = np.array([0.1, 0.2, 0.3, 0.4])
    _, done, batches = simulate(arrivals, 1.0, lambda taken: 1.0 if 0 in taken else 0.01, Limits(2, 9, 9, 5.0))
    assert batches == [[0], [1, 2], [3]]
    assert done[1] - arrivals[1] == pytest.approx(0.91)
    assert done[3] - arrivals[3] == pytest.approx(0.72)


@pytest.mark.parametrize("seed", range(5))
def test_each_request_is_served_once_in_batches_of_one_shape_the_oldest_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrivals = poisson_arrivals(300, 0, 2, seed)
    _, _, batches = simulate(arrivals, 2.0, lambda _: rng.uniform(0, 0.02), Limits(4, 4096, 1000, 60.0), shapes=3)
    served = [request for batch in batches for request in batch]
    assert sorted(served) == list(range(len(arrivals)))
    left = set(served)
    for batch in batches:
        assert len(batch) <= 4
        assert len({request % 3 for request in batch}) == 1
        assert batch == sorted(batch)
        assert batch[0] == min(left)
        left -= set(batch)
    assert max(map(len, batches)) > 1


def test_samples_draw_all_images_of_the_pool_and_batch_those_of_a_shape() -> None:
    narrow, wider = np.arange(3).reshape(3, 1), np.arange(10, 14).reshape(4, 1) * np.ones((1, 2), int)
    pool = Pool([], [{"image": narrow}, {"image": wider}], "here")
    samples = RequestImages(pool)
    seen = [int(samples.batch([request])["image"][0, 0]) for request in range(14)]
    assert sorted(seen[:7]) == [0, 1, 2, 10, 11, 12, 13]
    assert seen[:7] == seen[7:]
    wide = [request for request in range(7) if samples.shape(request) == 1]
    assert samples.batch(wide)["image"].tolist() == [[seen[request]] * 2 for request in wide]


def test_a_slow_run_counts_in_the_latency_of_all_that_arrive_meanwhile() -> None:
    slow = iter([0.0] * 12 + [0.5])
    point = serve(Server([fake(lambda _: time.sleep(next(slow, 0)))], POOL), 100, MinSamples(1, 1.0))
    assert point["p90_ms"] > 100
    assert point["requests"] == point["offered_ips"] * point["seconds"]


def test_saturation_is_said_and_not_drained() -> None:
    held = threading.Event()
    point = serve(Server([fake(lambda _: held.wait(0.02))], POOL, waiting=20), 500, MinSamples(1, 0.5))
    assert point["saturated"]
    assert "dropped" in point["note"]
    assert point["dropped"] > 0
    assert 0 < point["unfinished"] <= 21
    assert point["achieved_ips"] < point["offered_ips"] / 2
    assert not holds(point, 1e9)


def test_two_sessions_serve_at_once_and_batches_form_when_requests_wait() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def run(batch: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    point = serve(Server([fake(run), fake(run)], POOL, batch_size=4), 200, MinSamples(1, 0.5))
    assert most == 2
    assert 1 < point["mean_batch"] <= 4


def test_an_engine_that_fails_ends_the_run() -> None:
    calls = iter(range(100))

    def run(_: Any) -> None:
        if next(calls) > 10:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        serve(Server([fake(run), fake(lambda _: None)], POOL), 100, MinSamples(1, 20))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_offers_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ToolkitError, match="rate"):
        serve(Server([fake(lambda _: None)], POOL), rate)


def test_a_server_that_cannot_serve_is_refused() -> None:
    with pytest.raises(ToolkitError, match="session"):
        serve(Server([], POOL), 1)
    with pytest.raises(ToolkitError, match="batch size"):
        serve(Server([fake(lambda _: None)], POOL, batch_size=0), 1)


@pytest.mark.parametrize("target", [0, -5, float("nan")])
def test_a_target_that_nothing_holds_is_refused(target: float) -> None:
    with pytest.raises(ToolkitError, match="no latency"):
        find_rate(Server([fake(lambda _: None)], POOL), target_p99_ms=target, offline_ips=1)


def test_a_throughput_of_nothing_is_refused() -> None:
    with pytest.raises(ToolkitError, match="throughput"):
        saturate(Server([fake(lambda _: None)], POOL), 0)


def test_the_rate_that_holds_lies_below_saturation_and_was_verified() -> None:
    server = Server([fake(lambda _: time.sleep(0.01))], POOL)
    found = find_rate(server, target_p99_ms=2000, offline_ips=100, least=MinSamples(30, 0.3))
    rates = [point["offered_ips"] for point in found["points"]]
    assert rates == sorted(rates)
    assert found["points"][-1]["saturated"]
    assert 0 < found["saturation_ips"] <= 101
    assert 0 < found["rate_that_holds_ips"] < 2 * found["saturation_ips"]
    held = [point for point in found["points"] if point["offered_ips"] == found["rate_that_holds_ips"]]
    assert all(holds(point, 2000) for point in held)
    assert "verified" in found["note"]


def test_a_target_below_the_time_of_an_image_alone_is_not_searched_for() -> None:
    server = Server([fake(lambda _: time.sleep(0.01))], POOL)
    found = find_rate(server, target_p99_ms=5, offline_ips=100, least=MinSamples(30, 0.1))
    assert found["rate_that_holds_ips"] is None
    assert "an image alone takes" in found["note"]
    assert len(found["points"]) == 1


def test_a_real_bundle_is_served(finished_bundle: Path) -> None:
    bundle = Bundle(finished_bundle)
    engines = [onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32") for _ in range(2)]
    pool = pool_of(bundle, engines[0].input, *golden_contents(bundle))
    server = Server(engines, pool, batch_size=4)
    point = serve(server, 20, MinSamples(10, 0.5))
    assert point["requests"] > 0
    assert 0 < point["p50_ms"] <= point["p99_ms"]
    assert server.describe()["sessions"] == 2


@pytest.mark.parametrize(("provider", "sizes"), [("cpu", {1, 2, 4, 6}), ("cuda", {1, 2, 3, 4, 5, 6})])
def test_shapes_that_a_gpu_has_not_seen_are_run_before_requests_count(provider: str, sizes: set[int]) -> None:
    """On a GPU every size of every shape, on a CPU some sizes of the commonest."""
    seen: list[tuple[int, ...]] = []
    groups = [{"image": np.zeros((8, 2, 2, 3), np.uint8)}, {"image": np.zeros((3, 4, 2, 3), np.uint8)}]
    engine = Runner("fake", "fp32", provider, 1, lambda batch: seen.append(batch["image"].shape[:2]))
    Server([engine], Pool([], groups, "here"), batch_size=6).warm_up()
    shapes = {2, 4} if provider == "cuda" else {2}
    assert set(seen) == {(size, height) for size in sizes for height in shapes}
