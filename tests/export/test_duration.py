"""How long a measurement will take is told beforehand, and load from outside where a budget fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.duration import baseline_seconds, benchmark_seconds, tune_seconds
from export.latency.measure import MinSamples
from export.latency.scenarios.concurrency import LayoutRuns, SessionLayout
from export.latency.tuning.accuracy import Drop
from export.latency.tuning.search import Configuration, Effort, Measured, nothing_keeps
from export.latency.tuning.tune_bundle import tune_bundle
from export.regression import Gate, against_baseline
from toolkit.progress import Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.serving import Budget

LITTLE = Effort(MinSamples(3, 0), MinSamples(4, 0), 2, MinSamples(10, 1), MinSamples(10, 0), MinSamples(1, 0))
PLAIN = {"details": False, "scenarios": (), "combinations": 3}


def test_what_is_counted_is_what_it_takes() -> None:
    # 50 runs of 0.1 s, 16 to warm up, and 2 again before each of 10 blocks, at batch 1 and at 10
    assert benchmark_seconds([0.1], [], [1], MinSamples(50, 2.0), **PLAIN) == pytest.approx(1.6 + 5.0 + 2.0)  # type: ignore[arg-type]
    assert benchmark_seconds([0.1], [], [10], MinSamples(50, 2.0), **PLAIN) == pytest.approx(5.0 + 50 + 20)  # type: ignore[arg-type]
    assert benchmark_seconds([1e-6], [], [1], MinSamples(50, 2.0), **PLAIN) == pytest.approx(2, abs=0.01)  # type: ignore[arg-type]


def test_more_to_measure_takes_longer() -> None:
    least, sizes = MinSamples(50, 2.0), [1, 8]
    plain = benchmark_seconds([0.01], [], sizes, least, **PLAIN)  # type: ignore[arg-type]
    assert plain < benchmark_seconds([0.01], [0.02], sizes, least, **PLAIN)  # type: ignore[arg-type]
    assert plain < benchmark_seconds([0.01, 0.01], [], sizes, least, **PLAIN)  # type: ignore[arg-type]
    assert plain < benchmark_seconds([0.01], [], sizes, least, details=True, scenarios=(), combinations=3)
    for scenario in ("offline", "server", "multi-stream", "concurrency"):
        longer = benchmark_seconds([0.01], [], sizes, least, details=False, scenarios=[scenario], combinations=3)
        assert longer > plain + 5
    assert baseline_seconds(2, 0.01, sizes, least, 10) > baseline_seconds(1, 0.01, sizes, least, 10)


def test_a_search_goes_as_far_as_the_budget() -> None:
    rough, apart = MinSamples(20, 0.6), [MinSamples(200, 8.0)] * 4 + [MinSamples(300, 15.0)]

    def at_most(budget: float, combinations: int = 2) -> float:
        return tune_seconds([0.01], combinations, (1, 2, 4, 8), budget, rough=rough, apart=apart)

    assert at_most(0.001) == pytest.approx(2 * (0.5 + 0.6) + 4 * 8 + 15)  # one batch size, and it is too slow
    assert at_most(0.001) < at_most(0.02) < at_most(0.04) < at_most(1.0) < at_most(1.0, 4)


class Told(Progress):
    """Keeps stages and expected seconds."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def stage(self, what: str) -> None:
        self.said.append(what)

    def expect(self, seconds: float) -> None:
        self.said.append(seconds)


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_each_measurement_says_it_once_before_it_starts(finished_bundle: Path, tmp_path: Path) -> None:
    import shutil

    bundle = Bundle(Path(shutil.copytree(finished_bundle, tmp_path / "bundle")))
    told = Told()
    benchmark(
        bundle,
        provider="cpu",
        batch_sizes=[1],
        compare=ComparisonOptions(),
        least=MinSamples(1, 0),
        measured=BenchmarkOptions(details=False),
        progress=told,
    )
    assert isinstance(told.said[0], float)
    assert told.said[0] > 0
    assert [type(each) for each in told.said].count(float) == 1
    told = Told()
    against_baseline(bundle, bundle, Gate("cpu", [1], MinSamples(1, 0), 300.0), progress=told)
    assert [type(each) for each in told.said].count(float) == 1
    told = Told()
    budget = Budget(p99_ms=5000, max_accuracy_drop=100)
    outcome = tune_bundle(Bundle(bundle.path), budget, provider="cpu", effort=LITTLE, progress=told)
    assert [type(each) for each in told.said].count(float) == 1
    assert type(told.said[1]) is float  # after the accuracy, before the search
    assert isinstance(outcome["disturbances"], list)


def test_load_from_outside_is_said_where_nothing_keeps_the_budget() -> None:
    metrics = {"p50_ms": 9.0, "p99_ms": 12.0, "throughput_ips": 100.0, "intervals": {"p99_ms": [11.0, 14.0]}}
    configuration = Configuration("fp32", 1, SessionLayout(1, 1), Drop(0.0, (0.0, 0.0), 0.0, 100, ""))
    nearest = Measured(configuration, LayoutRuns(configuration.layout, 1), metrics)
    quiet = str(nothing_keeps(Budget(p99_ms=10, max_accuracy_drop=1), [nearest], []))
    assert quiet.startswith("nothing keeps p99 within 10 ms; nearest: fp32, batch 1")
    assert "meanwhile" not in quiet
    sentences = ["other processes took 40% of the cores' time", "the cores throttled 3 times because of heat"]
    loud = str(nothing_keeps(Budget(p99_ms=10, max_accuracy_drop=1), [nearest], sentences))
    assert loud.startswith(quiet)
    assert f"; meanwhile {sentences[0]}, and {sentences[1]}: measure again" in loud
