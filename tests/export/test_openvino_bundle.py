"""A run exported for OpenVINO: proven, verified, predicted, timed and tuned there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import toolkit
from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import input_on
from export.graph.config import GraphConfig
from export.graph.fusion_check import check_nodes
from export.graph.quantization import Quantization
from export.latency.measure import MinSamples
from export.latency.roofline.limits import limits
from export.latency.tuning.search import Effort
from export.latency.tuning.tune_bundle import tune_bundle
from export.parity.bisect import bisect
from export.parity.prove import BATCH_SIZES, prove
from export.parity.reference import Reference
from export.prove_bundle import bisect_bundle, prove_again
from export.selection.candidate import Candidate
from export.selection.contract import Contract
from export.selection.contract_search import fastest_within_contract
from export.selection.search import PrecisionSearch
from export.triton.settings import settings_of
from recipes.finetune import finetune
from toolkit.cli.export import _warn_of_too_few
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.openvino_session import OpenVinoSession
from toolkit.runtime.providers import runs_here
from toolkit.runtime.serving import Budget
from toolkit.runtime.verify import verify
from toolkit.serving.pool import open_pool

pytest.importorskip("openvino")
PRECISIONS = [precision for precision in ("fp32", "bf16", "int8") if runs_here(precision, "openvino")]
HALF = "bf16" in PRECISIONS
FLOATS = "bf16" if HALF else "fp32"
"""What int8 computes beside integers on this processor."""
LOOSE = Contract(25.0, 25.0)
LITTLE = Effort(MinSamples(3, 0), MinSamples(4, 0), 2, MinSamples(10, 1), MinSamples(10, 0), MinSamples(1, 0))


@pytest.fixture(scope="module")
def run(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned well enough that no label hangs on a rounding."""
    out = tmp_path_factory.mktemp("runs") / "clip"
    finetune(make_recipe("clip", training={"epochs": 12, "learning_rate": 3e-3}), out)
    return out


@pytest.fixture(scope="module")
def compiled(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In every precision that OpenVINO runs here; tests that change it copy it first."""
    out = tmp_path_factory.mktemp("bundles") / "openvino"
    export_bundle(Run(run), out, ExportOptions("pixel_values", PRECISIONS), provider="openvino", threads=1)
    return out


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "bundle"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parity_is_proven_from_the_file_on(precision: str, compiled: Path) -> None:
    entry = Bundle(compiled).parity_results[precision]["openvino"]
    assert entry["passed"]
    assert entry["max_abs_logit"] <= entry["tolerance"]
    assert entry["batch_sizes"] == list(BATCH_SIZES)
    assert entry["stages"]["preprocess"]["max_pixel_value"] == entry["stages"]["decode"]["max_grey_levels"] == 0
    assert entry["form"]["standard"]


def test_each_precision_computes_in_its_own_type(compiled: Path, run: Path) -> None:
    results = Bundle(compiled).parity_results
    rounded = results["int8"]["openvino"]
    integers = rounded["fused"].get("FullyConnected u8", 0) + rounded["fused"].get("FullyConnected i8", 0)
    assert integers >= len(rounded["form"]["quantization"]["products"]) > 0
    assert rounded["same_rounding"]["passed"]
    assert "Convolution f32" not in rounded["fused"]  # the patches are rounded too
    assert rounded["form"].get("floats", "fp32") == FLOATS
    assert {kind for kind in rounded["fused"] if kind.startswith("MVN")} == {"MVN bf16" if HALF else "MVN f32"}
    assert not [kind for kind in results["fp32"]["openvino"]["fused"] if not kind.endswith("f32")]
    if "bf16" in results:
        counts = results["bf16"]["openvino"]["fused"]
        assert counts["FullyConnected bf16"] > counts["FullyConnected f32"]  # the head stays
        assert "Convolution f32" not in counts  # the patches are a matmul
        layers = len(Run(run).classifier.encoder.towers[0].blocks)
        assert counts["Eltwise bf16"] < 7 * layers  # activations are part of the matmuls before them
        assert counts["MVN bf16"] > counts.get("Convert bf16", 0)  # no casts around norms


def test_float32_gives_what_onnxruntime_gives(compiled: Path) -> None:
    """The graph is in standard operators, so that any runtime takes it."""
    bundle = Bundle(compiled)
    model = onnx.load(compiled / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    feed = {name: bundle.golden().inputs[name] for name in ("pixel_values",)}
    ours, theirs = (bundle.session(provider=each, threads=1).run(feed) for each in ("openvino", "cpu"))
    tolerance = bundle.parity_results["fp32"]["openvino"]["tolerance"]
    for name, values in ours.items():
        assert np.abs(values - theirs[name]).max() <= tolerance


def test_the_bundle_verifies_on_openvino_in_every_precision(compiled: Path) -> None:
    report = verify(compiled, provider="openvino", threads=1)
    assert report["passed"], report["problems"]
    assert list(report["precisions"]) == PRECISIONS
    assert max(each["max_abs_logit_to_export"] for each in report["precisions"].values()) <= 1e-5


def test_parity_runs_again_and_stands_beside_the_cpus(bundle: Path, run: Path) -> None:
    parity = prove_again(Bundle(bundle), Run(run), provider="openvino", threads=1, precision="fp32", count=8)
    assert parity["results"]["fp32"]["openvino"]["passed"]
    parity = prove_again(Bundle(bundle), Run(run), provider="cpu", threads=1, precision="fp32", count=8)
    assert set(parity["results"]["fp32"]) == {"cpu", "openvino"}


def test_bisect_looks_inside_the_compiled_graph(compiled: Path, run: Path) -> None:
    report = bisect_bundle(Bundle(compiled), Run(run), provider="openvino", threads=1, precision="fp32")
    assert report["first_fault"] is None
    assert report["tensors"] > 10


def test_a_wrong_scale_does_not_hide_behind_floats_in_bf16(compiled: Path, run: Path) -> None:
    """Integers are proven beside PyTorch with the same rounding and floats in fp32, whatever computes them later."""
    bundle, finished = Bundle(compiled), Run(run)
    model = onnx.load(compiled / "model.int8.onnx")
    (scale,) = (each for each in model.graph.initializer if each.name.endswith("layers.1.mlp.fc1.weight^T.scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    session = OpenVinoSession(model.SerializeToString(), threads=1)
    reference = Reference(finished)
    entry = prove(session, model, bundle.preprocess, reference, finished.held_out(36)).entry
    assert not entry["same_rounding"]["passed"]
    assert not entry["passed"]
    session = OpenVinoSession(model.SerializeToString(), threads=1)
    fault = bisect(session, model, bundle.preprocess, reference, finished.held_out(36))["first_fault"]
    assert fault["module"].endswith("layers.1.mlp.fc1")


@pytest.mark.skipif(not HALF, reason="this processor has no bf16")
def test_floats_in_bf16_are_an_offer_to_processors_that_have_it(compiled: Path) -> None:
    """The graph is float32 between integers: floats in float32 give what is nearer to PyTorch, not something else."""
    bundle = Bundle(compiled)
    feed = {"pixel_values": bundle.golden().inputs["pixel_values"]}
    model = onnx.load(compiled / "model.int8.onnx")
    assert onnx.TensorProto.BFLOAT16 not in {each.data_type for each in model.graph.initializer}
    half = OpenVinoSession(compiled / "model.int8.onnx", threads=1).run(feed)["logits"]
    plain = {"INFERENCE_PRECISION_HINT": "f32"}
    single = OpenVinoSession(compiled / "model.int8.onnx", threads=1, properties=plain).run(feed)["logits"]
    assert 0 < np.abs(half - single).max() <= bundle.parity_results["int8"]["openvino"]["tolerance"]


@pytest.mark.parametrize("claimed", ["int8", "bf16"])
def test_a_graph_that_computes_in_another_type_than_it_claims_is_refused(
    claimed: str, compiled: Path, run: Path
) -> None:
    bundle, classifier = Bundle(compiled), Run(run).classifier
    nodes = bundle.session(provider="openvino", threads=1).executed_nodes(
        {"pixel_values": bundle.golden().inputs["pixel_values"]}
    )
    quantization = Quantization(matmuls=("a", "b")) if claimed == "int8" else Quantization()
    config = GraphConfig(precision=claimed, quantization=quantization, standard_ops_only=True)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="OpenVINO does not run the"):
        check_nodes(nodes, classifier, "openvino", config)
    assert check_nodes(nodes, classifier, "openvino", GraphConfig(standard_ops_only=True))["FullyConnected f32"] > 0


def test_half_precision_that_nobody_asked_for_is_refused(compiled: Path, run: Path) -> None:
    """What OpenVINO does by itself on a processor with bf16, unless told otherwise."""
    if "bf16" not in PRECISIONS:
        pytest.skip("the processor has no bf16")
    bundle = Bundle(compiled)
    session = OpenVinoSession(compiled / "model.onnx", properties={"INFERENCE_PRECISION_HINT": "bf16"})
    nodes = session.executed_nodes({"pixel_values": bundle.golden().inputs["pixel_values"]})
    with pytest.raises(CheckFailed, match="in half precision that the graph has in float32"):
        check_nodes(nodes, Run(run).classifier, "openvino", GraphConfig(standard_ops_only=True))


def test_a_bundle_for_onnxruntime_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    export_bundle(Run(run), tmp_path / "fused", ExportOptions("pixel_values"))
    with pytest.raises(ToolkitError, match="not ONNX Runtime's own, such as") as caught:
        verify(tmp_path / "fused", provider="openvino")
    assert caught.value.fix == "export again with --provider openvino"


def test_graphs_for_openvino_take_pixel_values() -> None:
    assert (input_on("openvino", None), input_on("cpu", None)) == ("pixel_values", "image")
    with pytest.raises(ToolkitError, match="no float64") as caught:
        input_on("openvino", "image")
    assert "pixel_values" in caught.value.fix


def test_a_graph_of_images_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no float64"):
        export_bundle(Run(run), tmp_path / "out", ExportOptions("image"), provider="openvino")
    assert not (tmp_path / "out").exists()


def test_latency_is_measured_and_says_which_engine(bundle: Path) -> None:
    latency = benchmark(
        Bundle(bundle),
        provider="openvino",
        batch_sizes=[1, 2],
        compare=ComparisonOptions(["torch-eager"]),
        least=MinSamples(3, 0),
        measured=BenchmarkOptions(precision="fp32", threads=1, details=False),
    )
    rows = {(row["engine"], row["provider"]) for row in latency["rows"]}
    assert rows == {("openvino", "openvino"), ("torch-eager", "cpu")}
    assert "openvino" in latency["machine"]["versions"]
    with pytest.raises(ToolkitError, match="binds no memory"):
        benchmark(
            Bundle(bundle),
            provider="openvino",
            batch_sizes=[1],
            compare=ComparisonOptions(["onnxruntime-bound"]),
            least=MinSamples(1, 0),
        )


def test_limits_are_those_of_the_runtime_in_every_precision(compiled: Path) -> None:
    found = limits(
        Bundle(compiled),
        {precision: [1, 2] for precision in PRECISIONS},
        provider="openvino",
        threads=1,
        least=MinSamples(1, 0),
    )
    assert (found["ceilings"]["runtime"], "openvino" in found["ceilings"]["best_library"]) == ("openvino", True)
    assert set(found["ceilings"]["runtime_gflops"]) == set(PRECISIONS)
    assert set(found["ceilings"]["torch_gflops"]) == set(PRECISIONS) - {"int8"}
    gflop = {(each["precision"], each["batch_size"]): each["gflop"] for each in found["work"]}
    for precision in PRECISIONS:
        assert gflop[precision, 2] == 2 * gflop[precision, 1]
        # the patches are a convolution or a matmul, of the same operations
        assert gflop[precision, 1] == gflop["fp32", 1]
    shares = {(each["precision"], each["batch_size"]): each["share_of_ceiling"] for each in found["network"]}
    assert shares.keys() == gflop.keys()
    assert min(shares.values()) > 0
    rounded = next(each for each in found["work"] if each["precision"] == "int8")
    assert {each["precision"] for each in rounded["products"]} == {"int8", FLOATS}


def test_another_runtime_computes_the_floats_of_int8_in_float32(compiled: Path) -> None:
    found = limits(Bundle(compiled), {"int8": [1]}, provider="cpu", threads=1, least=MinSamples(1, 0))
    assert {each["precision"] for each in found["work"][0]["products"]} == {"int8", "fp32"}


def test_what_is_tuned_is_what_predict_and_serve_open(bundle: Path) -> None:
    outcome = tune_bundle(Bundle(bundle), Budget(p99_ms=5000, max_accuracy_drop=50), provider="openvino", effort=LITTLE)
    chosen: dict[str, Any] = json.loads((bundle / "serving.json").read_text())
    assert chosen == outcome["chosen"]
    assert (chosen["provider"], chosen["session_options"], chosen["provider_options"]) == ("openvino", {}, {})
    opened = Bundle(bundle)
    with open_pool(opened) as pool:
        assert {session.provider for session in pool.sessions} == {"openvino"}
        assert len(pool.sessions) == chosen["sessions"]
        assert pool.sessions[0].threads == chosen["threads"]
    assert verify(bundle)["provider"] == "openvino"
    with pytest.raises(ToolkitError, match="Triton's ONNX Runtime backend") as refused:
        settings_of(opened, None, None, None)
    assert "--provider cpu" in refused.value.fix


def test_tune_chooses_the_better_of_two_runtimes(bundle: Path) -> None:
    budget = Budget(p99_ms=5000, max_accuracy_drop=50)
    outcome = tune_bundle(Bundle(bundle), budget, provider="cpu,openvino", effort=LITTLE)
    assert {row["provider"] for row in outcome["tried"]} == {"cpu", "openvino"}
    assert {"fp32", "int8", "fp32 on openvino", "int8 on openvino"} <= set(outcome["accuracy"])
    (best,) = [row for row in outcome["tried"] if row["chosen"]]
    chosen = outcome["chosen"]
    keys = ("provider", "precision", "threads", "sessions", "batch_size")
    assert [chosen[key] for key in keys] == [best[key] for key in keys]
    assert bool(chosen["session_options"]) == (chosen["provider"] == "cpu")
    with open_pool(Bundle(bundle)) as pool:
        assert pool.sessions[0].provider == chosen["provider"]


def test_runtimes_that_share_no_cores_are_tuned_apart(compiled: Path) -> None:
    with pytest.raises(ToolkitError, match="cuda runs alone"):
        tune_bundle(Bundle(compiled), Budget(p99_ms=5000, max_accuracy_drop=50), provider="openvino,cuda")


@pytest.mark.parametrize("wanted", [pytest.param("budget", marks=pytest.mark.slow), "contract"])
def test_auto_ships_the_faster_of_two_runtimes_and_says_which(
    wanted: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = MinSamples(10, 0)
    monkeypatch.setattr("export.bundle.fastest_within_contract", partial(fastest_within_contract, least=few))
    options = {"budget": {"budget": 50.0}, "contract": {"contract": LOOSE}}[wanted]
    out = tmp_path / "bundle"
    parity = export_bundle(
        Run(run),
        out,
        ExportOptions("pixel_values", **options),
        provider="cpu,openvino",
        threads=1,  # type: ignore[arg-type]
    )
    assert {each["provider"] for each in parity["tried"]} == {"cpu", "openvino"}
    ways = {(each["provider"], each["precision"]) for each in parity["tried"]}
    assert ways >= {("cpu", "fp32"), ("cpu", "int8"), *(("openvino", precision) for precision in PRECISIONS)}
    (chosen,) = (each for each in parity["tried"] if each["chosen"])
    assert chosen["p50_ms"] == min(each["p50_ms"] for each in parity["tried"] if each["verdict"] == "kept")
    provider, precision = chosen["provider"], chosen["precision"]
    assert parity["provider"] == provider
    assert {name: list(by) for name, by in parity["results"].items()} == {precision: [provider]}
    report = verify(out, provider=provider, threads=1)
    assert report["passed"], report["problems"]
    assert report["precisions"][precision]["max_abs_logit_to_export"] <= 1e-5  # its golden outputs are that runtime's
    card = (out / "MODEL_CARD.md").read_text()
    assert "| form | provider | agreement |" in card
    assert f"{precision} on {provider}: passed" in card
    if wanted == "contract":
        assert (parity["contract"]["provider"], parity["contract"]["form"]) == (provider, chosen["form"])
        assert parity["contract"]["latency"]["fp32_provider"] == "cpu"
        assert parity["contract"]["held_out"]["verdict"] != "over"


def test_both_runtimes_are_judged_on_the_same_images_by_the_same_reference(run: Path) -> None:
    first = PrecisionSearch(Run(run), provider="cpu", threads=1)
    second = first.beside("openvino")
    assert second.validation.expected is first.validation.expected
    assert second.validation.examples is first.validation.examples
    fp32 = [Candidate(search, search.configs.plain("fp32")) for search in (first, second)]
    assert [each.in_words() for each in fp32] == ["fp32", "fp32, on openvino"]
    assert fp32[0].metrics["top1_agreement"] == fp32[1].metrics["top1_agreement"] == 1.0
    assert fp32[0] != fp32[1]


def test_a_contract_that_nothing_keeps_is_refused_before_an_image_is_read(
    run: Path, color_data: Path, tmp_path: Path
) -> None:
    """The validation images are gone by then, so that reading one of them is another error."""
    opened = Run(run, Path(shutil.copytree(color_data, tmp_path / "data")))
    assert opened.data.splits["validation"]
    shutil.rmtree(tmp_path / "data" / "val")
    wanted = ExportOptions("pixel_values", contract=Contract(25.0, 101.0))
    with pytest.raises(ToolkitError, match="101 % of images can't be kept"):
        export_bundle(opened, tmp_path / "bundle", wanted, provider="cpu,openvino")
    with pytest.raises(ToolkitError, match="unreadable image"):
        export_bundle(opened, tmp_path / "bundle", replace(wanted, contract=LOOSE), provider="cpu,openvino")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_form_that_too_few_images_decide_over_is_named_with_its_provider(capsys: pytest.CaptureFixture[str]) -> None:
    judged = {"verdict": "undecided", "images": 15, "accuracy_drop_at_most": 18.1, "chosen": False}
    tried = [
        judged | {"form": "int8 static per channel", "provider": provider, "p50_ms": milliseconds}
        for provider, milliseconds in (("cpu", 9.0), ("openvino", 8.0))
    ]
    _warn_of_too_few(tried, 0.5)
    said = " ".join(capsys.readouterr().err.split())
    assert "can't show that int8 static per channel, on openvino loses at most 0.5 percentage points" in said


@pytest.mark.parametrize(
    ("provider", "says"),
    [("cpu,openvino", "several providers are for --precision auto"), ("cpu,cuda", "cuda runs alone")],
)
def test_several_providers_without_a_choice_are_refused(provider: str, says: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=says):
        toolkit.export(run, out=tmp_path / "bundle", provider=provider, precision="fp32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("provider", "precision"), [("openvino", None), ("cpu,openvino", "auto")])
def test_a_triton_repository_of_openvino_is_refused_before_anything_is_done(
    provider: str, precision: str | None, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="doesn't run OpenVINO") as caught:
        toolkit.export(run, out=tmp_path / "bundle", provider=provider, precision=precision, triton=tmp_path / "models")
    assert "toolkit serve" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
