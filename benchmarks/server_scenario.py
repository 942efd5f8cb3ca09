"""Open-loop load on a ViT-B/32 bundle: offered beside achieved load below saturation, and twice saturation.

    python -m benchmarks.server_scenario [--bundle BUNDLE]

Without a bundle one is made from random weights, in a process of its own: speed doesn't depend on their
values. The saturation is what the sessions achieve when twice the Offline throughput is offered. Points at
0.3, 0.5, 0.7 and 0.9 of it follow; their offered and achieved loads must agree within 2 %. Then twice the
saturation is offered, once and for twice as long: both must be reported as saturated, and take no more memory.
Exits with 1 if one of these does not hold. Writes benchmarks/results/server_scenario.json; takes about
ten minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.latency.measure import MinSamples
from export.latency.pool import golden_contents, pool_of
from export.latency.runner import onnxruntime_engine
from export.latency.scenarios.offline import offline
from export.latency.scenarios.server import Server, find_rate, saturate, serve
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine, usable_cores

RESULTS = Path(__file__).parent / "results" / "server_scenario.json"
LOADS = (0.3, 0.5, 0.7, 0.9)
AGREEMENT = 0.02
"""Largest relative difference of offered and achieved load below saturation."""
FLAT_MIB = 8.0
"""Most that twice the duration at twice the saturation may add to the peak of resident memory."""
SHOWN = ("offered_ips", "achieved_ips", "p50_ms", "p99_ms", "mean_batch", "dropped", "peak_resident_mib")


def make_bundle(work: Path) -> Path:
    """A ViT-B/32 bundle of random weights."""
    from benchmarks.fused_graph import make_run
    from export.bundle import export_bundle
    from toolkit.runs.finished_run import Run

    export_bundle(Run(make_run(work)), work / "bundle", threads=usable_cores())
    return work / "bundle"


def measure(bundle: Bundle, given: argparse.Namespace) -> dict[str, Any]:
    """All points, and what they show."""
    threads = given.threads or max(1, usable_cores() // given.sessions)
    options = {} if given.sessions == 1 else {"session.intra_op.allow_spinning": "0"}
    engines = [
        onnxruntime_engine(bundle, provider="cpu", threads=threads, precision=given.precision, session_options=options)
        for _ in range(given.sessions)
    ]
    pool = pool_of(bundle, engines[0].input, *golden_contents(bundle))
    swept = offline(engines[0], pool, largest=max(4, given.batch_size))
    server = Server(engines, pool, given.batch_size)
    short = MinSamples(100, given.seconds)
    saturation = shown(saturate(server, swept["best_ips"], short)[-1])["achieved_ips"]
    window = max(given.seconds, given.requests / saturation)
    points = [at_load(server, load, saturation, window) for load in LOADS]
    twice = [at_load(server, 2.0, saturation, times * given.seconds) for times in (1, 2)]
    found = server.describe() | {
        "offline": swept,
        "saturation_ips": saturation,
        "points": [*points, *twice],
        "inputs": pool.describe(),
        "shows": shows(points, twice),
    }
    if given.target_p99_ms:
        target = given.target_p99_ms
        found["found"] = find_rate(server, target_p99_ms=target, offline_ips=swept["best_ips"], least=short)
    return found


def at_load(server: Server, load: float, saturation: float, seconds: float) -> dict[str, Any]:
    """A point at a share of the saturation."""
    return {"load": load} | shown(serve(server, load * saturation, MinSamples(1, seconds)))


def shown(point: dict[str, Any]) -> dict[str, Any]:
    """A point, after printing it."""
    print("  ".join(f"{key} {point[key]:.4g}" for key in SHOWN if point[key] is not None), point["note"], flush=True)
    return point


def shows(points: list[dict[str, Any]], twice: list[dict[str, Any]]) -> dict[str, Any]:
    """What must hold, and how far it does."""
    off = max(abs(point["achieved_ips"] / point["offered_ips"] - 1) for point in points)
    peaks = [point["peak_resident_mib"] for point in twice]
    grown = None if None in peaks else peaks[1] - peaks[0]
    return {
        "largest_disagreement_below_saturation": off,
        "agrees": off <= AGREEMENT and not any(point["saturated"] for point in points),
        "saturation_is_said": all(point["saturated"] for point in twice),
        "memory_growth_mib": grown,
        "memory_is_flat": grown is not None and grown <= FLAT_MIB,
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="made from random weights unless given")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of each session; the usable cores shared out unless given")
    parser.add_argument("--batch-size", type=int, default=1, help="requests that a session takes up at once")
    parser.add_argument("--requests", type=int, default=1500, help="that saturation answers while a point lasts")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each point, at least")
    parser.add_argument("--target-p99-ms", type=float, help="also search the rate that holds it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = given.bundle
        if path is None:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
                path = elsewhere.submit(make_bundle, Path(name)).result()
        found = measure(Bundle(path), given)
    machine = describe_machine() | {"versions": {"onnxruntime": version("onnxruntime-gpu")}}
    write_json(given.out, found | {"machine": machine})
    print(found["shows"])
    sys.exit(
        not (found["shows"]["agrees"] and found["shows"]["saturation_is_said"] and found["shows"]["memory_is_flat"])
    )


if __name__ == "__main__":
    main()
