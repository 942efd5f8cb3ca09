"""Whether bench-latency, its gate and tune tell the truth, on a ViT-B/32 classifier of random weights.

    python -m benchmarks.latency_truth [--parts loop,gate,tune] [--bundle BUNDLE]

- ``loop``: a ten-line loop over the same session beside bench-latency's own measurement, five times in turns; the
  median ratio of the two p50s is within 5 % of 1.
- ``gate``: 20 trials with a planted slowdown of 10 %, of which at least 19 are called a regression, and 20 without,
  of which at most one is.
- ``tune``: ten times, tune picks a configuration under a budget of p99, and bench-latency measures it again; nine
  times at least it keeps the budget.

Without a bundle, one with fp32 and int8 graphs is made. Writes benchmarks/results/latency_truth.json; takes about
forty minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fused_graph import make_run
from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.latency.measure import MinSamples, measure
from export.latency.pool import golden_contents, pool_of
from export.latency.runner import Runner, onnxruntime_engine
from export.latency.system_monitor import monitored
from export.latency.tuning.tune_bundle import tune_bundle
from export.regression import Gate, compare_engines
from toolkit.errors import CheckFailed
from toolkit.files import write_json
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.serving import Budget

RESULTS = Path(__file__).parent / "results" / "latency_truth.json"
PARTS = ("loop", "gate", "tune")
ALTERNATIONS = 5
GATE_TRIALS = 20
TUNE_TRIALS = 10
SLOWDOWN = 0.10


def loop(bundle: Bundle, provider: str) -> dict[str, Any]:
    """bench-latency and a loop that anybody would write, in turns over one session."""
    found = {}
    for precision in bundle.precisions if provider == "cpu" else bundle.precisions[:1]:
        engine = onnxruntime_engine(bundle, provider=provider, threads=None, precision=precision)
        pool = pool_of(bundle, engine.input, *golden_contents(bundle))
        pairs = []
        for _ in range(ALTERNATIONS):
            ours = measure([engine], pool, [1], MinSamples(60, 4.0))[0]["p50_ms"]
            session, times = engine.run, []
            for image in pool.batches(1)[:10]:
                session(image)
            for image in pool.batches(1)[:60]:
                started = time.perf_counter()
                session(image)
                times.append(time.perf_counter() - started)
            pairs.append((ours, 1000 * sorted(times)[len(times) // 2]))
        ratios = [ours / theirs for ours, theirs in pairs]
        found[precision] = {"p50_ms": pairs, "ratios": ratios, "median_ratio": statistics.median(ratios)}
        found[precision]["agrees"] = abs(found[precision]["median_ratio"] - 1) <= 0.05
    return found


def gate(bundle: Bundle, provider: str) -> dict[str, Any]:
    """Trials with and without a planted slowdown, in turns; both sides are sessions of the same graph."""
    precision = bundle.precisions[-1]
    new, old = (onnxruntime_engine(bundle, provider=provider, threads=None, precision=precision) for _ in range(2))
    pool = pool_of(bundle, new.input, *golden_contents(bundle))
    settings = Gate(provider, [1], MinSamples(50, 0))
    trials: list[dict[str, Any]] = []
    with monitored(provider) as conditions:
        for number in range(2 * GATE_TRIALS):
            planted = number % 2 == 0
            engine = Runner(
                new.name, precision, provider, new.threads, slowed(new.run) if planted else new.run, new.input
            )
            trials.append({"planted": planted} | compare_engines(engine, old, pool, 1, settings))
            print(json.dumps(trials[-1]), flush=True)
    called = {kind: sum(each["regression"] for each in trials if each["planted"] is kind) for kind in (True, False)}
    return {
        "precision": precision,
        "planted_slowdown": SLOWDOWN,
        "max_regression": settings.max_regression,
        "called_with": called[True],
        "called_without": called[False],
        "trials_of_each": GATE_TRIALS,
        "holds": called[True] >= 19 and called[False] <= 1,
        "trials": trials,
        "conditions": conditions.facts,
    }


def slowed(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, a tenth slower: the added time is a tenth of what that very run took."""

    def compute(batch: Any) -> Any:
        started = time.perf_counter()
        result = run(batch)
        until = time.perf_counter() + SLOWDOWN * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass
        return result

    return compute


def tune(folder: Path, provider: str, trials: list[dict[str, Any]], keep: Callable[[dict[str, Any]], None]) -> None:
    """Tune and measure again, under a budget of three times what int8 takes at batch 1 alone.

    Each trial takes minutes, so what was found is kept after each, and an interrupted benchmark goes on.
    """
    engine = onnxruntime_engine(
        Bundle(folder), provider=provider, threads=None, precision=Bundle(folder).precisions[-1]
    )
    pool = pool_of(Bundle(folder), engine.input, *golden_contents(Bundle(folder)))
    budget = float(f"{3000 * float(np.median(engine.warm_up(pool.batches(1), 40))):.2g}")
    for _ in range(TUNE_TRIALS - len(trials)):
        trials.append(tuned_and_measured(folder, provider, budget))
        kept = sum(trial["kept"] for trial in trials)
        keep({"kept": kept, "trials_done": len(trials), "trials": trials, "holds": kept >= 9})
        print(json.dumps(trials[-1]), flush=True)


def tuned_and_measured(folder: Path, provider: str, budget: float) -> dict[str, Any]:
    """One trial."""
    started = time.perf_counter()
    try:
        outcome = tune_bundle(Bundle(folder), Budget(p99_ms=budget, max_accuracy_drop=100), provider=provider)
    except CheckFailed as nothing:
        return {"kept": False, "nothing_fits": str(nothing)}
    seconds = time.perf_counter() - started
    again = benchmark(
        Bundle(folder),
        provider=provider,
        batch_sizes=[outcome["chosen"]["batch_size"]],
        compare=ComparisonOptions(),
        least=MinSamples(50, 2.0),
        measured=BenchmarkOptions(precision=outcome["chosen"]["precision"], details=False),
    )["serving"]
    chosen = {key: outcome["chosen"][key] for key in ("precision", "batch_size", "sessions", "threads", "expected")}
    return {"kept": again["within_budget"], "chosen": chosen, "again": again, "tuning_seconds": seconds}


def made(work: Path) -> Path:
    """A bundle of random weights with both graphs."""
    export_bundle(Run(make_run(work)), work / "bundle", ExportOptions(precisions=["fp32", "int8"]))
    return work / "bundle"


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--provider", default="cpu")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = given.bundle or made(work)
        copy = Path(shutil.copytree(source, work / "copy"))
        bundle = Bundle(copy)

        def keep(name: str, outcome: dict[str, Any]) -> None:
            found[name] = outcome
            write_json(RESULTS, found | {"machine": describe_machine()})

        for name in given.parts.split(","):
            with monitored(given.provider) as conditions:
                if name == "tune":
                    done = found.get("tune", {}).get("trials", [])
                    tune(copy, given.provider, done, lambda outcome: keep("tune", outcome))
                else:
                    keep(name, {"loop": loop, "gate": gate}[name](bundle, given.provider))
            keep(name, found[name] | {"disturbed": conditions.facts["throttled"]})
            print(name, json.dumps({key: value for key, value in found[name].items() if key != "trials"}), flush=True)


if __name__ == "__main__":
    main()
