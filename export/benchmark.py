"""Measure a bundle on this machine and write the metrics into it."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from export.change import BUNDLE, Target, change
from export.duration import benchmark_seconds
from export.latency.cold_start import cold_start
from export.latency.measure import MinSamples, check_sizes, measure
from export.latency.operators import RUNS, by_operator
from export.latency.pool import Pool, find_pool
from export.latency.request import split_request
from export.latency.roofline.limits import add_shares, limits
from export.latency.runner import BOUND, SPINNING, Runner, bound_engine, onnxruntime_engine
from export.latency.scenarios.concurrency import SessionLayout, concurrency, layouts_on, session_options
from export.latency.scenarios.multi_stream import multi_stream
from export.latency.scenarios.offline import offline
from export.latency.scenarios.server import Server, find_rate, serve
from export.latency.statistics import PERCENTILES
from export.latency.system_monitor import monitored
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.progress import SILENT, Progress
from toolkit.reporting.pages import MEASURED_PLOTS
from toolkit.runtime.bundle import MANIFEST, Bundle
from toolkit.runtime.inputs import Feed, examples_in, part_of
from toolkit.runtime.latency_file import LATENCY, write_latency
from toolkit.runtime.machine import describe_machine, usable_cores
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.providers import ON_CPU, require_precision, runnable
from toolkit.runtime.verify import require_sound

if TYPE_CHECKING:
    from toolkit.runs.finished_run import Run

LEAST = MinSamples()
MEASURED = {
    "pixel_values": "the network alone: pixel_values in host memory to probabilities in host memory",
    "image": "preprocessing and network: decoded images in host memory to probabilities in host memory; "
    "torch's includes the image processor",
    "input_ids": "the network alone: tokens in host memory to probabilities in host memory",
}
SCENARIOS = ("offline", "server", "multi-stream", "concurrency")
TARGET = 2.0
"""p99 that the server scenario aims at unless told, in p50s of a run alone."""


@dataclass(frozen=True)
class ComparisonOptions:
    """Engines to measure beside ONNX Runtime."""

    engines: Sequence[str] = ()
    run: Path | None = None
    """Run folder to take the classifier from, if it is no longer where the export found it."""
    data: Path | None = None
    """Where the run's data is, if it is no longer where its recipe says."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, beside the latency of a run."""

    precision: str | None = None
    """Of the graph; every one that the provider runs, the default first, if None."""
    threads: int | None = None
    images: Path | None = None
    """Folder of images to draw inputs from; held-out images, or the golden ones, if None."""
    scenarios: Sequence[str] = ()
    target_p99_ms: float | None = None
    """The p99 that the server scenario has to keep, in milliseconds."""
    details: bool = True
    """Whether cold start, memory, the split of a request and the machine's limits are measured too."""

    def check(self) -> None:
        """Raise :class:`ToolkitError` for a scenario that there is not, or a target that can't be held."""
        for name in self.scenarios:
            if name not in SCENARIOS:
                fix = f"choose from {', '.join(SCENARIOS)}"
                raise ToolkitError(f"no scenario {name!r}", where="--scenarios", fix=fix)
        if self.target_p99_ms is not None and not 0 < self.target_p99_ms < float("inf"):
            what = f"no latency stays within {self.target_p99_ms:g} ms"
            raise ToolkitError(what, where="--target-p99-ms", fix="give more than 0")


DEFAULT = BenchmarkOptions()


def benchmark(
    bundle: Bundle,
    *,
    provider: str,
    batch_sizes: Sequence[int],
    compare: ComparisonOptions,
    least: MinSamples = LEAST,
    measured: BenchmarkOptions = DEFAULT,
    to: Target = BUNDLE,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure ONNX Runtime, and what else a user could run beside it; see :func:`export.latency.measure.measure`.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        provider: the provider asked for, or none at all.
        batch_sizes: images a run.
        compare: engines to measure in alternation.
        least: how much to count for each engine and batch size.
        measured: what else to measure.
        to: where the metrics are written; their plots go into the bundle alone.
        progress: told how it goes on.

    Returns:
        The content of ``latency.json``, which is written into the bundle with its plots.

    Raises:
        CheckFailed: a file differs from the manifest.
        ToolkitError: nothing to measure, or something that can't be measured here.
    """
    measured.check()
    least.check()
    require_sound(bundle)
    to.check(bundle)
    names = runnable(bundle.precisions, provider)
    if measured.precision:
        names = [require_precision(measured.precision, provider)]
    with bundle.holding(), monitored(provider) as conditions:
        progress = conditions.between_blocks(progress)
        engines = [
            onnxruntime_engine(bundle, provider=provider, threads=measured.threads, precision=each) for each in names
        ]
        ours = list(engines)
        engines += [bound_engine(name, bundle, ours[0]) for name in compare.engines if name in BOUND]
        rivals = [name for name in compare.engines if name not in BOUND]
        of = _run(bundle, compare) if rivals or compare.data else None
        pool = find_pool(bundle, engines[0].input, of, measured.images)
        versions = {"onnxruntime": ort.__version__}
        if provider == OPENVINO:
            versions[OPENVINO] = version(OPENVINO)
        if of is not None and rivals:
            import torch

            from export.latency.reference_runners import reference_runner

            engines += [reference_runner(name, of, engines[0]) for name in rivals]
            versions["torch"] = torch.__version__
        progress.expect(_expected_seconds(engines, len(ours), pool, batch_sizes, least, measured))
        skipped: list[dict[str, Any]] = []
        progress.stage("measuring")
        rows = measure(engines, pool, batch_sizes, least, skipped=skipped, progress=progress)
        if not rows:
            raise ToolkitError(
                f"nothing fits in memory: {skipped[0]['reason']}", where="--batch-sizes", fix="give less"
            )
        latency: dict[str, Any] = {"rows": rows, "skipped": skipped}
        if measured.details:
            latency |= _details(bundle, ours, pool, rows, least, progress)
        latency["scenarios"] = _scenarios(bundle, ours[0], pool, measured, progress)
        latency["serving"] = _serving(bundle, provider, pool, least, progress)
    latency |= {
        "machine": describe_machine() | {"versions": versions} | conditions.facts,
        "inputs": pool.describe() | {"what": MEASURED[engines[0].input]},
        "bundle_sha256": sha256_of(bundle.path / MANIFEST),
        "graph_sha256": bundle.manifest.files[bundle.graph_name(names[0])].sha256,
        "graphs": {each: bundle.manifest.files[bundle.graph_name(each)].sha256 for each in names},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _write(bundle, latency, to)
    return latency


def _expected_seconds(
    engines: Sequence[Runner],
    ours: int,
    pool: Pool,
    batch_sizes: Sequence[int],
    least: MinSamples,
    measured: BenchmarkOptions,
) -> float:
    """Seconds that all of it will take, from the second run of each engine; the first ``ours`` of them are shipped."""
    check_sizes(batch_sizes)
    batches = pool.batches(1)
    runs = [engine.warm_up(batches, 2)[1] for engine in engines]
    return benchmark_seconds(
        runs[:ours],
        runs[ours:],
        batch_sizes,
        least,
        details=measured.details,
        scenarios=measured.scenarios,
        combinations=len(layouts_on(engines[0].provider, usable_cores())),
    )


def _run(bundle: Bundle, compare: ComparisonOptions) -> Run:
    from toolkit.runs.finished_run import run_of

    return run_of(bundle, compare.run, compare.data)


def _details(
    bundle: Bundle,
    engines: Sequence[Runner],
    pool: Pool,
    rows: list[dict[str, Any]],
    least: MinSamples,
    progress: Progress,
) -> dict[str, Any]:
    """Cold start, memory, the split of a request and its operators, where nodes ran, and the machine's limits."""
    found: dict[str, Any] = {"cold_start": [], "memory": [], "request": [], "operators": [], "nodes": {}}
    image = next(name for name in bundle.manifest.files if name.startswith("golden/") and not name.endswith(".npz"))
    sizes = measured_sizes(engines, rows)
    for engine in engines:
        which: dict[str, Any] = {"precision": engine.precision, "provider": engine.provider}
        progress.stage(f"cold start of {engine.precision}")
        started, memory = cold_start(
            bundle.path,
            image,
            **which,
            threads=engine.threads,
            batch_sizes=sizes[engine.precision],
            input_shapes={name: values.shape[1:] for name, values in _usual(pool).items()},
        )
        found["cold_start"].append(started)
        found["memory"] += memory
        progress.stage(f"a request in {engine.precision}")
        session = bundle.session(**which, threads=engine.threads, record_nodes=True)
        executed = session.executed_nodes(part_of(_usual(pool), slice(1)), RUNS)
        found["nodes"][engine.precision] = _nodes(executed)
        if engine.provider == "cpu":  # a GPU's nodes are launched, and done later
            found["operators"].append(which | {"threads": engine.threads, "runs": RUNS} | by_operator(executed))
        session = bundle.session(**which, threads=engine.threads)
        found["request"].append(which | split_request(bundle, engine.precision, session, pool.contents, least))
    progress.stage("the machine's limits")
    found["limits"] = limits(
        bundle,
        sizes,
        provider=engines[0].provider,
        threads=engines[0].threads,
        progress=progress,
    )
    add_shares(rows, found["limits"])
    return found


def measured_sizes(engines: Sequence[Runner], rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Batch sizes of each engine's precision that have a row: those that fit in memory."""
    return {
        engine.precision: sorted(
            row["batch_size"] for row in rows if (row["engine"], row["precision"]) == (engine.name, engine.precision)
        )
        for engine in engines
    }


def _nodes(executed: Sequence[Any]) -> dict[str, dict[str, int]]:
    """How many nodes of each operator ran on each provider."""
    by: dict[str, Counter[str]] = {}
    for node in executed:
        by.setdefault(node.provider, Counter())[node.operator] += 1
    return {provider: dict(counts.most_common()) for provider, counts in by.items()}


def _usual(pool: Pool) -> Feed:
    """Images of the most frequent shape."""
    return max(pool.groups, key=examples_in)


def _scenarios(
    bundle: Bundle, engine: Runner, pool: Pool, measured: BenchmarkOptions, progress: Progress
) -> dict[str, Any]:
    """MLPerf's other scenarios, of the first precision, each in a session of its own: what a session took for the
    largest batch of the table stays with it, and would hide how much memory the next size needs.
    """
    found: dict[str, Any] = {}

    def fresh(layout: SessionLayout | None = None, batch_size: int | None = None) -> Runner:
        return onnxruntime_engine(
            bundle,
            provider=engine.provider,
            threads=layout.threads if layout else engine.threads,
            precision=engine.precision,
            session_options=session_options(layout, engine.provider) if layout else None,
            provider_options=layout.provider_options if layout else None,
            batch_size=batch_size,
        )

    best: float | None = None
    if {"offline", "server"} & set(measured.scenarios):
        progress.stage("Offline")
        swept = offline(fresh(), pool, progress=progress)
        best = swept["best_ips"]
        found |= {"offline": swept["rows"], "offline_end": swept["offline_end"]}
    if "multi-stream" in measured.scenarios:
        progress.stage("MultiStream")
        found["multi_stream"] = multi_stream(fresh(), pool, progress=progress)
    if "concurrency" in measured.scenarios:
        swept_sessions = layouts_on(engine.provider, usable_cores())
        progress.stage("sessions and threads")
        found["concurrency"] = [each.row() for each in concurrency(fresh, pool, swept_sessions, progress=progress)]
    if "server" in measured.scenarios:
        progress.stage("Server")
        tuned = bundle.tuned_for(engine.provider, engine.precision)
        target = measured.target_p99_ms or (tuned.budget.p99_ms if tuned else _own_target(engine, pool))
        most = tuned.batch_size if tuned else 1
        server = Server([fresh(batch_size=most)], pool, most)
        found["server"] = find_rate(server, target_p99_ms=target, offline_ips=best or 1.0)
    return found


def _own_target(engine: Runner, pool: Pool) -> float:
    """Milliseconds that a request may take where nobody said."""
    alone = sorted(engine.warm_up(pool.batches(1), 11))[5]
    return float(f"{1000 * TARGET * alone:.2g}")


def _serving(bundle: Bundle, provider: str, pool: Pool, least: MinSamples, progress: Progress) -> dict[str, Any] | None:
    """The configuration that was tuned for this provider, measured again as it would run; None without one.

    With a rate in its budget, the latencies are those of requests that arrive at that rate.
    """
    tuned = bundle.tuned_for(provider)
    if tuned is None or (provider in ON_CPU and tuned.sessions * tuned.threads > usable_cores()):
        return None
    progress.stage("the tuned configuration")

    def opener(layout: SessionLayout) -> Runner:
        return onnxruntime_engine(
            bundle,
            provider=provider,
            threads=layout.threads,
            precision=tuned.precision,
            session_options=tuned.session_options,  # type: ignore[arg-type]
            provider_options=tuned.provider_options,  # type: ignore[arg-type]
            batch_size=tuned.batch_size,
        )

    layout = SessionLayout(tuned.sessions, tuned.threads, tuned.session_options.get(SPINNING) != "0")
    enough = MinSamples(max(least.runs, 200), max(least.seconds, 5.0))
    budget, row = tuned.budget, concurrency(opener, pool, [layout], enough, batch_size=tuned.batch_size)[0].row()
    kept = row["p99_ms"] is not None and row["p99_ms"] <= budget.p99_ms
    if budget.rate is not None and row["p99_ms"] is not None:
        engines = [opener(layout) for _ in range(tuned.sessions)]
        served = serve(Server(engines, pool, tuned.batch_size), budget.rate, enough)
        row |= {"served": served} | {key: served[key] for key in (*PERCENTILES, "mean_ms", "max_ms", "intervals")}
        kept = not row["served"]["saturated"] and row["p99_ms"] is not None and row["p99_ms"] <= budget.p99_ms
    which = {"precision": tuned.precision, "provider": provider}
    return which | row | {"budget_p99_ms": budget.p99_ms, "budget_rate": budget.rate, "within_budget": kept}


def _write(bundle: Bundle, latency: dict[str, Any], to: Target) -> None:
    if to.wrote(latency):
        return
    with change(bundle, to.key) as (folder, _):
        write_latency(folder / LATENCY, latency)
        for name in MEASURED_PLOTS:  # those of an earlier measurement would stand beside other metrics
            (folder / "plots" / f"{name}.png").unlink(missing_ok=True)
        if find_spec("matplotlib"):
            from toolkit.reporting.latency_plot import plot_measured

            plot_measured(latency, folder / "plots")
