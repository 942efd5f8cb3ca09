from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.change import Target
from export.latency.measure import MinSamples
from export.latency.runner import onnxruntime_engine
from export.latency.scenarios.concurrency import LayoutRuns, SessionLayout
from export.latency.tuning.accuracy import Drop, accuracy_drops
from export.latency.tuning.search import BATCH_SIZES, Configuration, Effort, Measured, Search, pareto, tune
from export.latency.tuning.tune_bundle import tune_bundle
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.serving import Budget, Serving
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier

LITTLE = Effort(MinSamples(3, 0), MinSamples(4, 0), 2, MinSamples(10, 1), MinSamples(10, 0), MinSamples(1, 0))
NO_DROP = Drop(0.0, (0.0, 0.0), 0.0, 100, "nothing lost")


@pytest.fixture(scope="module")
def both(make_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an fp32 and an int8 graph."""
    from recipes.finetune import finetune

    root = tmp_path_factory.mktemp("both")
    finetune(make_recipe("clip"), root / "run")
    export_bundle(Run(root / "run"), root / "bundle", ExportOptions(precisions=["fp32", "int8"]))
    return root / "bundle"


@pytest.fixture
def bundle(both: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(both, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def once_tuned(both: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same after a search, which takes seconds, and what it found."""
    copied = Path(shutil.copytree(both, tmp_path_factory.mktemp("tuned") / "bundle"))
    budget = Budget(p99_ms=5000, max_accuracy_drop=100)
    return copied, tune_bundle(Bundle(copied), budget, provider="cpu", effort=LITTLE)


@pytest.fixture
def tuned(once_tuned: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(once_tuned[0], tmp_path / "tuned"))


def test_the_choice_goes_into_a_file_and_the_bundle_stays_as_it_is(bundle: Path, tmp_path: Path) -> None:
    before, out = Bundle(bundle).manifest, tmp_path / "serving.json"
    budget = Budget(p99_ms=5000, max_accuracy_drop=100)
    outcome = tune_bundle(Bundle(bundle), budget, provider="cpu", effort=LITTLE, to=Target(out))
    assert json.loads(out.read_text()) == outcome["chosen"]
    assert Bundle(bundle).manifest == before
    assert Bundle(bundle).serving is None


def test_the_choice_is_written_and_used_by_what_runs_the_bundle(once_tuned: tuple[Path, dict[str, Any]]) -> None:
    bundle, outcome = once_tuned
    chosen = Serving.model_validate(outcome["chosen"])
    opened = Bundle(bundle)
    assert opened.differences() == []
    assert opened.serving == chosen == Serving.model_validate_json((bundle / "serving.json").read_bytes())
    assert chosen.expected.files_ips
    assert chosen.reduced_jpeg is None
    assert chosen.expected.p99_ms <= chosen.expected.p99_ms_at_most <= 0.9 * 5000
    (row,) = [row for row in outcome["tried"] if row["chosen"]]
    assert row["finalist"]
    assert row["within_budget"]
    assert row["confirmed"]
    session = opened.session()
    assert session.threads == chosen.threads_here()
    assert opened.tuned_for("cuda") is None
    images = [bundle / "golden" / name for name in opened.golden().names]
    with Classifier.open(opened) as served:
        assert len(served.pool.sessions) == chosen.sessions
        assert {each.threads for each in served.pool.sessions} == {chosen.threads}
        assert served.pool.batch_size == chosen.batch_size
        tuned = list(served.entries(images, batch_size=4))
    plain = list(Classifier.open(opened, precision="fp32").entries(images, batch_size=4))
    if chosen.precision == "fp32":
        assert tuned == plain
    assert verify(bundle)["passed"]
    assert verify(bundle)["serving"]["precision"] == chosen.precision
    assert "serving" in (bundle / "report.html").read_text().lower()


def test_a_latency_budget_that_nothing_keeps_names_what_comes_nearest(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(CheckFailed, match=r"nothing keeps p99 within 1e-05 ms; nearest: .*batch 1, .*images/s"):
        tune_bundle(Bundle(bundle), Budget(p99_ms=1e-5, max_accuracy_drop=100), provider="cpu", effort=LITTLE)
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "serving.json").exists()


def test_an_accuracy_budget_that_nothing_keeps(bundle: Path) -> None:
    drops = {"int8": Drop(1.5, (0.5, 2.5), 2.3, 200, "200 validation images")}
    search = Search(Bundle(bundle), None, drops, "cpu")  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"at most 0.2 percentage points; nearest: int8, which loses 1.50"):
        tune(search, Budget(p99_ms=100, max_accuracy_drop=0.2))


def test_a_precision_over_the_accuracy_budget_is_not_measured(bundle: Path) -> None:
    from export.latency.pool import golden_contents, pool_of

    opened = Bundle(bundle)
    drops = {"fp32": NO_DROP, "int8": Drop(1.5, (0.5, 2.5), 2.3, 200, "200 validation images")}
    search = Search(opened, pool_of(opened, "image", *golden_contents(opened)), drops, "cpu", LITTLE, cores=1)
    found = search.candidates(Budget(p99_ms=10_000, max_accuracy_drop=0.2))
    assert {each.configuration.precision for each in found} == {"fp32"}
    assert [each.configuration.batch_size for each in found] == list(BATCH_SIZES[: len(found)])


def test_sessions_are_kept_while_batches_grow_and_no_longer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.latency.pool import golden_contents, pool_of

    opened, real = [], Bundle.session

    def counted(self: Bundle, **given: Any) -> Any:
        opened.append((given["threads"], given["batch_size"]))
        return real(self, **given)

    monkeypatch.setattr(Bundle, "session", counted)
    pool = pool_of(Bundle(bundle), "image", *golden_contents(Bundle(bundle)))
    search = Search(Bundle(bundle), pool, {"fp32": NO_DROP}, "cpu", LITTLE, cores=2)
    found = search.candidates(Budget(p99_ms=10_000, max_accuracy_drop=0.2))
    combinations = {(each.configuration.layout.sessions, each.configuration.layout.threads) for each in found}
    assert combinations == {(1, 1), (1, 2), (2, 1)}
    assert opened == [(1, 1), (2, 1), (1, 1), (1, 1)]


@pytest.mark.slow
def test_with_a_rate_p99_is_that_of_requests_at_that_rate(bundle: Path) -> None:
    outcome = tune_bundle(
        Bundle(bundle), Budget(p99_ms=5000, max_accuracy_drop=100, rate=5), provider="cpu", effort=LITTLE
    )
    (row,) = [row for row in outcome["tried"] if row["chosen"]]
    assert row["served"]["offered_ips"] == pytest.approx(5, rel=0.5)
    assert row["p99_ms"] == row["served"]["p99_ms"]


def test_bundles_side_by_side_get_the_same_threads_tuned_or_not(tuned: Path, both: Path) -> None:
    content = json.loads((tuned / "serving.json").read_text()) | {"precision": "fp32", "threads": 1, "sessions": 1}
    (tuned / "serving.json").write_text(json.dumps(content))
    Bundle(tuned).update_manifest()
    assert Bundle(tuned).session().threads == 1
    engines = [
        onnxruntime_engine(Bundle(each), provider="cpu", threads=None, precision="fp32") for each in (tuned, both)
    ]
    assert engines[0].threads == engines[1].threads == usable_cores()


@pytest.mark.slow
def test_what_was_tuned_for_a_rate_is_measured_again_by_the_benchmark(bundle: Path) -> None:
    tune_bundle(Bundle(bundle), Budget(p99_ms=5000, max_accuracy_drop=100, rate=60), provider="cpu", effort=LITTLE)
    is_measured_again(bundle)


def test_what_was_tuned_is_measured_again_by_the_benchmark(tuned: Path) -> None:
    """As it would have been tuned for a rate, whose search takes long."""
    content = json.loads((tuned / "serving.json").read_text())
    content["budget"]["rate"] = 60
    (tuned / "serving.json").write_text(json.dumps(content))
    Bundle(tuned).update_manifest()
    is_measured_again(tuned)


def is_measured_again(bundle: Path) -> None:
    measured = BenchmarkOptions(details=False)
    latency = benchmark(
        Bundle(bundle),
        provider="cpu",
        batch_sizes=[1],
        compare=ComparisonOptions(),
        least=MinSamples(2, 0),
        measured=measured,
    )
    assert latency["serving"]["within_budget"]
    row = latency["serving"]
    assert row["p99_ms"] == row["served"]["p99_ms"]
    assert row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert row["intervals"]["p99_ms"][0] <= row["p99_ms"] <= row["intervals"]["p99_ms"][1]
    assert latency["serving"]["precision"] == Bundle(bundle).serving.precision  # type: ignore[union-attr]


def test_a_choice_that_gives_something_else_is_not_written(bundle: Path) -> None:
    golden = Bundle(bundle).golden()
    golden.logits = golden.logits + 10
    golden.outputs = {name: values + 10 for name, values in golden.outputs.items()}
    golden.save(bundle)
    Bundle(bundle).update_manifest()
    with pytest.raises(CheckFailed, match="nothing was written: as it was chosen, logits differ"):
        tune_bundle(Bundle(bundle), Budget(p99_ms=5000, max_accuracy_drop=100), provider="cpu", effort=LITTLE)
    assert not (bundle / "serving.json").exists()
    assert Bundle(bundle).differences() == []


def test_accuracy_is_measured_on_validation_or_taken_from_parity(both: Path) -> None:
    opened = Bundle(both)
    run = Run(opened.run)
    measured = accuracy_drops(opened, run, ["fp32", "int8"], "cpu")
    assert measured["fp32"].points == 0
    assert measured["int8"].images == len(run.data.splits["validation"])
    low, high = measured["int8"].interval
    assert low <= measured["int8"].points <= high
    alone = accuracy_drops(opened, run, ["int8"], "cpu")["int8"]
    assert "PyTorch" in alone.source
    assert alone.points == measured["int8"].points
    recorded = accuracy_drops(opened, None, ["int8"], "cpu")["int8"]
    entry = opened.parity_results["int8"]["cpu"]
    assert recorded.points == -100 * entry["figures"]["accuracy"]["change"]
    assert recorded.images == entry["images"]


def test_pareto_keeps_what_no_other_beats_in_both() -> None:
    assert pareto([(10, 100), (5, 50), (10, 90), (None, 500), (20, 100), (5, 50)]) == [
        *(True, True, False, False, False, True)
    ]


def test_the_best_of_several_is_measured_once_more_apart(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is quick while the finalists are compared, and slow afterwards."""
    search = Search(Bundle(bundle), None, {"fp32": NO_DROP}, "cpu", LITTLE, cores=1)  # type: ignore[arg-type]
    configuration = Configuration("fp32", 1, SessionLayout(1, 1), NO_DROP)

    def measured(milliseconds: float) -> Measured:
        runs = (milliseconds / 1000,) * 100
        return Measured.of(configuration, LayoutRuns(configuration.layout, 1, runs, (1000 / milliseconds,)))

    def machine(milliseconds: float) -> Callable[..., Measured]:
        def measure(_: Search, asked: Configuration, least: MinSamples) -> Measured:
            assert (asked, least) == (configuration, LITTLE.confirm)
            return measured(milliseconds)

        return measure

    best, budget = measured(1.0), Budget(p99_ms=10, max_accuracy_drop=1)
    assert best.keeps_latency(budget)
    monkeypatch.setattr(Search, "measure", machine(2.0))
    again = search.confirmed(best, budget)
    assert again.confirmed
    assert (again.metrics["runs"], again.metrics["p50_ms"]) == (200, 1.5)
    monkeypatch.setattr(Search, "measure", machine(20.0))
    last = search.confirmed(again, budget)
    assert not last.confirmed
    assert last.metrics["runs"] == 300


def test_headroom_is_asked_of_the_upper_end_of_p99() -> None:
    metrics = {"p50_ms": 5.0, "p99_ms": 8.0, "throughput_ips": 100.0, "intervals": {"p99_ms": [7.0, 9.5]}}
    configuration = Configuration("fp32", 1, SessionLayout(1, 1), NO_DROP)
    measured = Measured(configuration, LayoutRuns(configuration.layout, 1), metrics)
    assert not measured.keeps_latency(Budget(p99_ms=10, max_accuracy_drop=1))
    assert measured.keeps_latency(Budget(p99_ms=11, max_accuracy_drop=1))
    saturated = replace(measured, served=metrics | {"saturated": True, "dropped": 0})
    assert not saturated.keeps_latency(Budget(p99_ms=1000, max_accuracy_drop=1))


@pytest.mark.parametrize(
    "change",
    [
        {"session_options": {"session.load_model_format": "ORT"}},
        {"provider_options": {"trt_engine_cache_path": "/etc"}},
        {"threads": 0},
        {"precision": "fp7"},
        {"surprise": 1},
    ],
)
def test_a_serving_file_may_not_ask_for_anything_else(tuned: Path, change: dict[str, Any]) -> None:
    content = json.loads((tuned / "serving.json").read_text()) | change
    (tuned / "serving.json").write_text(json.dumps(content))
    opened = Bundle(tuned)
    opened.update_manifest()
    with pytest.raises(ToolkitError, match=r"serving.json"):
        Bundle(tuned).session()


def test_fewer_cores_here_than_where_it_was_tuned(tuned: Path) -> None:
    content = json.loads((tuned / "serving.json").read_text()) | {"threads": 512}
    (tuned / "serving.json").write_text(json.dumps(content))
    Bundle(tuned).update_manifest()
    session = Bundle(tuned).session()
    assert session.threads < 512
    logits = session.run({"image": np.zeros((1, 40, 40, 3), np.uint8)})["logits"]
    assert np.isfinite(logits).all()
