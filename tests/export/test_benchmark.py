from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.benchmark import SCENARIOS, BenchmarkOptions, ComparisonOptions, benchmark, measured_sizes
from export.latency.measure import BLOCKS, MinSamples, measure
from export.latency.pool import Pool
from export.latency.runner import Runner
from export.latency.tuning.tune_bundle import tune_bundle
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.serving import Budget

ROW = {
    "provider",
    "precision",
    "batch_size",
    "engine",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "throughput_ips",
    "runs",
    "warmup_runs",
}


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


def test_latency_json_is_written_into_a_bundle_that_stays_whole(bundle: Path) -> None:
    opened = Bundle(bundle)
    latency = benchmark(
        opened, provider="cpu", batch_sizes=[1, 3], compare=ComparisonOptions(["torch-eager"]), least=MinSamples(5, 0)
    )
    assert json.loads((bundle / "latency.json").read_text()) == latency
    assert [(row["engine"], row["batch_size"]) for row in latency["rows"]] == [
        ("onnxruntime", 1),
        ("torch-eager", 1),
        ("onnxruntime", 3),
        ("torch-eager", 3),
    ]
    for row in latency["rows"]:
        assert set(row) >= ROW
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["runs"] >= 5
        assert row["warmup_runs"] > 0
        for name, (low, high) in [(name, each) for name, each in row["intervals"].items() if each]:
            assert low <= row[name] <= high
        assert row["p99_9_ms"] is None  # too few runs to tell
    assert latency["machine"]["usable_cores"] >= 1
    assert isinstance(latency["machine"]["throttled"], list)
    (start,), (request,) = latency["cold_start"], latency["request"]
    steps = [start[name] for name in ("process_ms", "import_ms", "session_ms", "first_run_ms")]
    assert 0 < min(steps) <= max(steps) < start["total_ms"]
    assert [row["batch_size"] for row in latency["memory"]] == [1, 3]
    assert all(row["peak_resident_mib"] > 10 for row in latency["memory"])
    assert request["file_to_label_ms"] > request["decode_ms"] > 0
    assert request["preprocess_ms"] is None  # the graph does it
    assert set(latency["nodes"]["fp32"]) == {"CPUExecutionProvider"}
    (operators,) = latency["operators"]
    assert operators["ms"] == pytest.approx(sum(operators["parts"].values()))
    assert {"preprocessing", "norms"} <= set(operators["parts"])
    assert latency["rows"][0]["gflops_per_s"] > 0
    assert (bundle / "plots" / "latency.png").stat().st_size > 1000
    assert "Latency" in (bundle / "MODEL_CARD.md").read_text()
    assert Bundle(bundle).differences() == []


def test_without_comparison_the_golden_images_are_enough(bundle: Path, tmp_path: Path) -> None:
    latency = benchmark(
        Bundle(bundle),
        provider="cpu",
        batch_sizes=[16],
        compare=ComparisonOptions(),
        least=MinSamples(1, 0),
        measured=BenchmarkOptions(threads=1, details=False),
    )
    assert [row["engine"] for row in latency["rows"]] == ["onnxruntime"]
    assert latency["inputs"]["images"] == 256
    assert "8 golden images" in latency["inputs"]["from"]


def test_engines_alternate_in_re_warmed_blocks_over_the_same_inputs() -> None:
    calls: list[tuple[str, tuple[float, ...]]] = []
    pool = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1) * np.ones((1, 3, 2, 2), np.float32)

    def engine(name: str) -> Runner:
        def run(feed: dict[str, Float32]) -> None:
            calls.append((name, tuple(feed["image"][:, 0, 0, 0].tolist())))

        return Runner(name, "fp32", "cpu", 1, run)

    rows = measure([engine("a"), engine("b")], Pool([], [{"image": pool}], "here"), [2], MinSamples(10, 0))
    assert [row["runs"] for row in rows] == [10, 10]
    turns = [name for position, (name, _) in enumerate(calls) if position == 0 or calls[position - 1][0] != name]
    assert len(turns) >= BLOCKS + 2  # warm-up and calibration, then a turn a block; neighbours of one name merge
    seen = {name: {batch for caller, batch in calls if caller == name} for name in "ab"}
    assert seen["a"] == seen["b"]
    assert sorted(image for batch in seen["a"] for image in batch) == list(range(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"runs": 0}, "0 runs"), ({"batch_sizes": [0]}, "batch size"), ({"batch_sizes": []}, "batch size")],
)
def test_nothing_to_measure_is_refused(options: dict[str, object], message: str) -> None:
    pool = Pool([], [{"pixel_values": np.zeros((1, 3, 2, 2), np.float32)}], "here")
    arguments: dict[str, Any] = {"batch_sizes": [1], "runs": 1} | options
    with pytest.raises(ToolkitError, match=message):
        measure([], pool, arguments["batch_sizes"], MinSamples(arguments["runs"], 0))


def test_bound_memory_is_measured_beside_and_gives_the_same(bundle: Path) -> None:
    latency = benchmark(
        Bundle(bundle),
        provider="cpu",
        batch_sizes=[2],
        compare=ComparisonOptions(["onnxruntime-bound"]),
        least=MinSamples(2, 0),
        measured=BenchmarkOptions(details=False),
    )
    assert [row["engine"] for row in latency["rows"]] == ["onnxruntime", "onnxruntime-bound"]
    with pytest.raises(ToolkitError, match="--provider cuda"):
        benchmark(
            Bundle(bundle), provider="cpu", batch_sizes=[1], compare=ComparisonOptions(["onnxruntime-cuda-graph"])
        )


def test_a_batch_that_does_not_fit_in_memory_is_skipped_and_said(pixel_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pixel_bundle, tmp_path / "bundle"))
    latency = benchmark(
        Bundle(copy),
        provider="cpu",
        batch_sizes=[1, 10_000_000],
        compare=ComparisonOptions(),
        least=MinSamples(2, 0),
        measured=BenchmarkOptions(details=False),
    )
    assert [row["batch_size"] for row in latency["rows"]] == [1]
    (skipped,) = latency["skipped"]
    assert skipped["batch_size"] == 10_000_000
    assert "MiB" in skipped["reason"]


def test_memory_that_an_engine_keeps_does_not_hide_what_a_larger_batch_takes() -> None:
    """As ONNX Runtime's arena: what the largest batch so far took stays, and is used again."""
    kept = [np.zeros(0, np.uint8)]

    def run(feed: dict[str, Float32]) -> None:
        batch = feed["pixel_values"]
        assert len(batch) <= 64, "a batch that fills the machine was tried"
        if len(kept[0]) < len(batch) << 22:  # 4 MiB an image, so that 16 of them never come from what is free already
            kept[0] = np.ones(len(batch) << 22, np.uint8)

    pool, skipped = Pool([], [{"pixel_values": np.zeros((64, 3, 2, 2), np.float32)}], "here"), []
    rows = measure([Runner("arena", "fp32", "cpu", 1, run)], pool, [64, 10_000_000], MinSamples(1, 0), skipped=skipped)
    assert [row["batch_size"] for row in rows] == [64]
    (missing,) = skipped
    assert missing["reason"].startswith("batch size 10000000 takes about ")


def test_plots_of_an_earlier_measurement_do_not_stand_beside_new_figures(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> None:
        opened, measured = Bundle(bundle), BenchmarkOptions(details=False)
        benchmark(
            opened,
            provider="cpu",
            batch_sizes=[1],
            compare=ComparisonOptions(),
            least=MinSamples(1, 0),
            measured=measured,
        )

    again()
    assert (bundle / "plots" / "latency.png").is_file()
    monkeypatch.setattr("export.benchmark.find_spec", lambda name: None)  # as without matplotlib
    again()
    assert not (bundle / "plots" / "latency.png").exists()
    assert Bundle(bundle).differences() == []


def test_every_scenario_is_measured_and_stands_in_the_report(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import export.benchmark as module

    for name, least in (
        ("offline", MinSamples(1, 0)),
        ("multi_stream", MinSamples(1, 0)),
        ("concurrency", MinSamples(1, 0)),
    ):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), least=least))
    monkeypatch.setattr(module, "find_rate", functools.partial(module.find_rate, least=MinSamples(10, 0.2)))
    measured = BenchmarkOptions(scenarios=SCENARIOS, details=False, target_p99_ms=1000)
    latency = benchmark(
        Bundle(bundle),
        provider="cpu",
        batch_sizes=[1],
        compare=ComparisonOptions(),
        least=MinSamples(1, 0),
        measured=measured,
    )
    page = (bundle / "report.html").read_text()
    for title in ("Offline: ", "Server: ", "MultiStream: ", "Sessions and threads"):
        assert f"<h3>{title}" in page
    assert set(latency["scenarios"]) == {"offline", "offline_end", "multi_stream", "concurrency", "server"}
    assert Bundle(bundle).differences() == []


def test_details_are_of_the_batches_that_fit(bundle: Path) -> None:
    """Each precision has sizes of its own; a size that one of them has no room for is not tried again."""
    engines = [Runner("onnxruntime", name, "cpu", 1, lambda batch: None) for name in ("fp32", "int8")]
    rows = measure(
        engines[:1], Pool([], [{"image": np.zeros((8, 2, 2, 3), np.uint8)}], "here"), [1, 4], MinSamples(1, 0)
    )
    rows += measure(engines[1:], Pool([], [{"image": np.zeros((8, 2, 2, 3), np.uint8)}], "here"), [1], MinSamples(1, 0))
    assert measured_sizes(engines, rows) == {"fp32": [1, 4], "int8": [1]}


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (BenchmarkOptions(scenarios=["rush-hour"]), "rush-hour"),
        (BenchmarkOptions(target_p99_ms=0), "0 ms"),
        (BenchmarkOptions(target_p99_ms=float("nan")), "nan"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(bundle: Path, measured: BenchmarkOptions, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        benchmark(Bundle(bundle), provider="cpu", batch_sizes=[1], compare=ComparisonOptions(), measured=measured)


def test_a_changed_bundle_is_not_measured(bundle: Path) -> None:
    (bundle / "labels.json").write_text("[]")
    with pytest.raises(CheckFailed, match=r"labels.json was changed"):
        benchmark(Bundle(bundle), provider="cpu", batch_sizes=[1], compare=ComparisonOptions())


def test_a_bundle_whose_parity_failed_is_neither_measured_nor_tuned(bundle: Path) -> None:
    parity = json.loads((bundle / "parity.json").read_text())
    parity["results"]["fp32"]["cpu"]["passed"] = False
    (bundle / "parity.json").write_text(json.dumps(parity))
    Bundle(bundle).update_manifest()
    with pytest.raises(CheckFailed, match="fp32 failed on cpu"):
        benchmark(Bundle(bundle), provider="cpu", batch_sizes=[1], compare=ComparisonOptions())
    with pytest.raises(CheckFailed, match="fp32 failed on cpu"):
        tune_bundle(Bundle(bundle), Budget(p99_ms=50, max_accuracy_drop=1), provider="cpu")


def test_an_unknown_engine_is_refused(bundle: Path) -> None:
    with pytest.raises(ToolkitError, match="tensorflow"):
        benchmark(
            Bundle(bundle),
            provider="cpu",
            batch_sizes=[1],
            compare=ComparisonOptions(["tensorflow"]),
            least=MinSamples(1, 0),
        )
    assert not (bundle / "latency.json").exists()
