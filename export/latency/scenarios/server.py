"""MLPerf's Server scenario: requests arrive by chance at a rate, whether or not the last ones are done.

The loop is open. A request's latency runs from the time at which it was to arrive to its result, so that what a
slow run makes the next requests wait is part of their latency (no coordinated omission).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from export.latency.measure import REWARM_RUNS, MinSamples
from export.latency.pool import SEED, Pool
from export.latency.queueing import Limits, Queue, RequestImages, poisson_arrivals
from export.latency.runner import Runner
from export.latency.statistics import PERCENTILES, percentiles
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.inputs import examples_in, part_of
from toolkit.runtime.memory import peak_resident_mib, reset_peak, resident_mib
from toolkit.serving.pool import SessionPool

LEAST = MinSamples(runs=500, seconds=10.0)
"""Requests, and seconds, of a point."""
WAITING = 4096
"""Requests that wait at once, at most."""
LEAD = 0.1
"""Share of a point's time for which requests arrive before they count: an empty queue at the start flatters."""
DRAIN = 0.5
"""Share of a point's time that the last requests may take after it."""
RESOLUTION = 0.05
"""Relative distance of the rate that holds and the next that was tried."""
LOWEST = 1 / 16
"""Of the saturation, the lowest rate tried."""
VERIFICATIONS = 10
"""Rates, each 5 % below the last, at which a verification is tried."""
ALONE_RUNS = 20
"""Runs of one image that tell whether a target can be held at all."""
QUEUED = 32
"""Requests of a point that is to saturate, over those that all sessions hold at once, at least."""
DOUBLINGS = 12
"""Most rates that are tried until the sessions no longer keep up."""
START = 0.05
"""Seconds between a run's preparation and its first arrivals."""


class Offered(Protocol):
    """What requests can be offered to: sessions in this process, or a server behind a URL."""

    @property
    def held(self) -> int:
        """Requests that all sessions hold at once."""

    def describe(self) -> dict[str, Any]:
        """Its settings, for ``latency.json``."""

    def alone_seconds(self) -> float:
        """Median seconds of a request when no other is there."""

    def offer(self, rate: float, least: MinSamples = ..., *, seed: int = ...) -> dict[str, Any]:
        """Offer a rate and count what comes back; see :func:`serve`."""


@dataclass(frozen=True)
class Server:
    """Sessions behind one queue.

    A session that is free takes the oldest request and up to ``batch_size`` of its shape that wait already; it
    doesn't wait for more.
    """

    engines: Sequence[Runner]
    """One a session; each runs in a thread of its own."""
    pool: Pool
    batch_size: int = 1
    waiting: int = WAITING
    """Requests that wait at once, at most; what arrives then is dropped, and counted."""
    progress: Progress = SILENT
    """Called after each point."""

    def check(self) -> None:
        """Raise unless it can serve.

        Raises:
            ToolkitError: no session, or no request at once.
        """
        if not self.engines:
            raise ToolkitError("no session serves nothing", where="--sessions", fix="give 1 or more")
        if self.batch_size < 1 or self.waiting < 1:
            raise ToolkitError("a batch size must be 1 or more", where="--batch-size", fix="give 1 or more")

    def describe(self) -> dict[str, Any]:
        """Its settings, for ``latency.json``."""
        first = self.engines[0]
        return {
            "scenario": "Server",
            "engine": first.name,
            "precision": first.precision,
            "provider": first.provider,
            "batch_size": self.batch_size,
            "sessions": len(self.engines),
            "threads": first.threads,
        }

    @property
    def held(self) -> int:
        """Requests that all sessions hold at once."""
        return self.batch_size * len(self.engines)

    def alone_seconds(self) -> float:
        """Median seconds of a run of one image."""
        return float(np.median(self.engines[0].warm_up(self.pool.batches(1), ALONE_RUNS)))

    def offer(self, rate: float, least: MinSamples = LEAST, *, seed: int = SEED) -> dict[str, Any]:
        """See :func:`serve`."""
        return serve(self, rate, least, seed=seed)

    def warm_up(self) -> None:
        """Run every session on images of the commonest shape, in batches of 1, 2, 4, ... and the largest size.

        A GPU's libraries choose kernels anew for every shape that comes: there it is each size, of each shape.
        """
        sizes = {1 << power for power in range(self.batch_size.bit_length())} | {self.batch_size}
        groups = [max(self.pool.groups, key=examples_in)]
        if any(engine.provider != "cpu" for engine in self.engines):
            sizes, groups = set(range(1, self.batch_size + 1)), list(self.pool.groups)
        for group in groups:
            for size in sorted(sizes):
                batch = part_of(group, np.arange(size) % examples_in(group))
                for engine in self.engines:
                    engine.warm_up([batch], REWARM_RUNS)


def serve(server: Server, rate: float, least: MinSamples = LEAST, *, seed: int = SEED) -> dict[str, Any]:
    """Offer a rate for as long as ``least`` says, and count what comes back.

    ``offered_ips`` counts the scheduled arrivals of the window and ``achieved_ips`` the results that came within
    it, both over its seconds. What waits at its two ends makes the difference, which vanishes over a long window
    unless the backlog grows. The percentiles are of the requests that arrived within the window.

    A point where the backlog grows is ``saturated``: it ends with the window, and what then waits is
    ``unfinished``. Its memory is bounded by the queue's.

    Args:
        server: sessions and images.
        rate: requests a second, on average.
        least: requests and seconds, at least.
        seed: of the arrivals.

    Returns:
        ``offered_ips``, ``achieved_ips``, the percentiles of :func:`export.latency.statistics.percentiles`,
        ``mean_batch``, ``seconds``, ``requests``, ``dropped``, ``unfinished``, ``saturated``,
        ``peak_resident_mib``, ``growth_mib`` (the peak over what the process held at the start) and ``note``.

    Raises:
        ToolkitError: a rate that is not above 0, no sessions or no requests.
    """
    server.check()
    least.check()
    if not (rate > 0 and math.isfinite(rate)):
        raise ToolkitError(f"a rate of {rate:g} a second offers nothing", where="--rate", fix="give more than 0")
    seconds = max(least.seconds, least.runs / rate)
    server.warm_up()
    samples = RequestImages(server.pool)
    arrivals = poisson_arrivals(rate, -LEAD * seconds, seconds, seed)
    limits = Limits(server.batch_size, server.waiting, server.held, max(1.0, DRAIN * seconds))
    reset_peak()
    held = resident_mib()
    zero = time.perf_counter() + START + LEAD * seconds
    queue = Queue(arrivals, seconds, samples.shape, limits, clock=lambda: time.perf_counter() - zero)
    finished = np.full(len(arrivals), np.nan)
    taken = _work_through(server, queue, samples, finished, zero)
    peak = peak_resident_mib()
    server.progress.step()
    in_window = arrivals >= 0
    latencies = (finished - arrivals)[in_window & np.isfinite(finished)]
    saturated = queue.saturated or bool(np.isnan(finished[in_window]).any())
    point = {
        "offered_ips": queue.requests / seconds,
        "achieved_ips": float(((finished >= 0) & (finished < seconds)).sum() / seconds),
        **figures_of(latencies),
        "mean_batch": float(np.mean(taken)) if taken else None,
        "seconds": seconds,
        "requests": queue.requests,
        "dropped": queue.dropped,
        "unfinished": queue.requests - queue.dropped - len(latencies),
        "saturated": saturated,
        "peak_resident_mib": peak,
        "growth_mib": max(0.0, peak - held),
    }
    return point | {"note": note_of(point)}


def _work_through(server: Server, queue: Queue, samples: RequestImages, finished: Any, zero: float) -> list[int]:
    """Have all sessions take requests until the run is over; note when each was done, in seconds.

    Returns:
        The size of each batch that was begun within the window.
    """
    sizes: list[int] = []

    def work(engine: Runner, place: int) -> None:
        try:
            while requests := queue.take():
                engine.run(samples.batch(requests))
                done = time.perf_counter() - zero
                finished[requests] = done
                if queue.arrivals[requests[0]] >= 0:
                    sizes.append(len(requests))
        finally:
            # the run is over for all, whether it ended or an engine failed
            queue.stopped = True

    with SessionPool(server.engines) as pool:
        try:
            pool.each(work)
        finally:
            queue.stopped = True
    return sizes


def figures_of(latencies: Any) -> dict[str, Any]:
    """Percentiles of latencies; None each where there are none."""
    if len(latencies):
        return percentiles(latencies)
    return dict.fromkeys([*PERCENTILES, "mean_ms", "max_ms", "intervals"])


def note_of(point: dict[str, Any]) -> str:
    """Whether the sessions kept up, in words."""
    if not point["saturated"]:
        return "the sessions kept up"
    left = f"{point['unfinished']:,} were not done when the run ended and {point['dropped']:,} were dropped"
    return (
        f"saturated: of {point['requests']:,} requests in {point['seconds']:.1f} s, {left}; "
        "the latencies are of the others and grow for as long as this rate is offered"
    )


def find_rate(
    server: Offered,
    *,
    target_p99_ms: float,
    offline_ips: float,
    least: MinSamples = LEAST,
    seed: int = SEED,
) -> dict[str, Any]:
    """The largest rate at which p99 stays within a target, found by bisection and verified by a run of its own.

    The first point offers twice the Offline throughput, which tells what the sessions achieve at most.

    Args:
        server: sessions and images.
        target_p99_ms: largest p99 that counts as holding, in milliseconds.
        offline_ips: images a second of the Offline scenario.
        least: requests and seconds of each point, at least; the verification counts twice as many.
        seed: of the arrivals; the verification has the next.

    Returns:
        The server's settings, ``target_p99_ms``, ``rate_that_holds_ips`` (the offered load of the verification;
        None if no rate that was tried holds), ``saturation_ips``, ``points`` in the order of the rates, and ``note``.

    Raises:
        ToolkitError: a target or a throughput that is not above 0; what :func:`serve` raises.
    """
    if not (target_p99_ms > 0 and math.isfinite(target_p99_ms)):
        what = f"no latency stays within {target_p99_ms:g} ms"
        raise ToolkitError(what, where="--target-p99-ms", fix="give more than 0")
    points = saturate(server, offline_ips, least, seed=seed)
    saturation = points[-1]["achieved_ips"]
    alone = 1000 * server.alone_seconds()
    low = _bisect(server, points, target_p99_ms, saturation, least, seed) if alone <= target_p99_ms else 0.0
    verified = None
    for step in range(VERIFICATIONS if low else 0):
        rate = low * (1 - RESOLUTION) ** step
        points.append(server.offer(rate, MinSamples(2 * least.runs, 2 * least.seconds), seed=seed + 1))
        if holds(points[-1], target_p99_ms):
            verified = points[-1]["offered_ips"]
            break
    if verified is not None:
        note = f"verified by a run of {2 * least.runs} requests or more with other arrivals"
    elif alone > target_p99_ms:
        note = f"no rate holds {target_p99_ms:g} ms: an image alone takes {alone:.3g} ms"
    else:
        lowest = min(point["offered_ips"] for point in points)
        note = f"no rate was verified to hold {target_p99_ms:g} ms; the lowest tried was {lowest:.3g} a second"
    return server.describe() | {
        "target_p99_ms": target_p99_ms,
        "rate_that_holds_ips": verified,
        "saturation_ips": saturation,
        "points": sorted(points, key=lambda point: float(point["offered_ips"])),
        "note": note,
    }


def saturate(
    server: Offered, offline_ips: float, least: MinSamples = LEAST, *, seed: int = SEED
) -> list[dict[str, Any]]:
    """Offer twice the Offline throughput, and twice as much again until the sessions no longer keep up.

    Returns:
        The points; the last one's ``achieved_ips`` is the most that the sessions give.

    Raises:
        ToolkitError: a throughput that is not above 0.
    """
    if not (offline_ips > 0 and math.isfinite(offline_ips)):
        what = f"a throughput of {offline_ips:g} images a second is none"
        raise ToolkitError(what, where="offline_ips", fix="give what the Offline scenario measured")
    # with fewer requests than the sessions hold at once, no rate would let them queue
    runs = max(least.runs, QUEUED * server.held)
    points: list[dict[str, Any]] = []
    while len(points) < DOUBLINGS and not (points and points[-1]["saturated"]):
        rate = 2 * (points[-1]["offered_ips"] if points else offline_ips)
        points.append(server.offer(rate, MinSamples(runs, least.seconds), seed=seed))
    return points


def _bisect(
    server: Offered, points: list[dict[str, Any]], target_p99_ms: float, high: float, least: MinSamples, seed: int
) -> float:
    """The largest rate below ``high`` that holds, to 5 %; 0 if none of 1/16 of it or more does."""
    low, lowest = 0.0, LOWEST * high
    while high - low > RESOLUTION * high and high > lowest:
        rate = (low + high) / 2
        points.append(server.offer(rate, least, seed=seed))
        low, high = (rate, high) if holds(points[-1], target_p99_ms) else (low, rate)
    return low


def holds(point: dict[str, Any], target_p99_ms: float) -> bool:
    """Whether a point's p99 stays within a target and nothing was dropped."""
    return not point["saturated"] and point["p99_ms"] is not None and point["p99_ms"] <= target_p99_ms
