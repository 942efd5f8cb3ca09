"""Bundles with graphs in reduced precisions: each a file with a proof of its own, and a choice by measurement."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_family import one_family
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig, config_of
from export.latency.measure import MinSamples
from export.parity.proof import require_passed
from export.parity.reference import Reference
from export.precision.activation_ranges import observe
from export.precision.trunk import quantisable
from export.prove_bundle import prove_again
from export.selection.fastest import fastest_within_budget
from export.selection.measurements import WORTHWHILE
from export.selection.search import PrecisionSearch
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier
from toolkit.tasks.temperature import fit_temperature

CONTRACT = {
    "max_abs_logit",
    "mean_abs_logit",
    "top1_agreement",
    "images",
    "batch_sizes",
    "tolerance",
    "noise_floor",
    "passed",
}


@pytest.fixture(scope="module")
def reduced_bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reduced") / finished_run.name
    export_bundle(Run(finished_run), out, ExportOptions(precisions=("fp32", "fp16", "int8")))
    return out


@pytest.fixture
def copy(reduced_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reduced_bundle, tmp_path / "bundle"))


def test_every_precision_is_a_file_with_a_proof(reduced_bundle: Path) -> None:
    opened = Bundle(reduced_bundle)
    assert opened.precisions == ["fp32", "fp16", "int8"]
    assert opened.manifest.default == "model.onnx"
    for precision in opened.precisions:
        entry = opened.parity_results[precision]["cpu"]
        assert set(entry) >= CONTRACT
        assert entry["passed"]
        assert entry["max_abs_logit"] <= entry["tolerance"] == entry["noise_multiple"] * entry["noise_floor"]
        model = onnx.load(reduced_bundle / opened.graph_name(precision))
        assert config_of(model) == GraphConfig.model_validate(entry["form"])
        assert config_of(model).precision == precision
        assert set(opened.golden().outputs) == {"fp32", "fp16", "int8"}
    assert opened.parity_results["int8"]["cpu"]["fused"]["integer product"] > 0


@one_family
def test_verification_proves_each_precision(copy: Path) -> None:
    report = verify(copy)
    assert report["passed"]
    assert list(report["precisions"]) == ["fp32", "fp16", "int8"]
    model = onnx.load(copy / "model.int8.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "head.3.bias")
    other = (Bundle(copy).golden().outputs["int8"][0].argmax() + 1) % 3
    bias.CopyFrom(numpy_helper.from_array(99 * np.eye(3, dtype=np.float32)[other], bias.name))
    onnx.save(model, copy / "model.int8.onnx")
    report = verify(copy)
    assert report["problems"] == ["model.int8.onnx was changed"]
    Bundle(copy).update_manifest()
    report = verify(copy)
    assert not report["passed"]
    assert any("in int8 by" in problem for problem in report["problems"])
    assert any("another label in int8" in problem for problem in report["problems"])
    with pytest.raises(CheckFailed, match="parity failed for int8 on cpu"):
        require_passed(prove_again(Bundle(copy), Run(Bundle(copy).run), provider="cpu", threads=1))
    assert Bundle(copy).parity_results["fp32"]["cpu"]["passed"]
    assert not Bundle(copy).parity_results["int8"]["cpu"]["passed"]


@one_family
def test_one_precision_is_proven_again_alone(copy: Path, finished_run: Path) -> None:
    before = Bundle(copy).parity_results
    prove_again(Bundle(copy), Run(finished_run), provider="cpu", threads=1, precision="int8")
    after = Bundle(copy).parity_results
    assert after["fp32"] == before["fp32"]
    assert after["int8"]["cpu"]["threads"] == 1
    with pytest.raises(ToolkitError, match="can't run bf16"):
        prove_again(Bundle(copy), Run(finished_run), provider="cpu", threads=1, precision="bf16")


QUICK = BenchmarkOptions(threads=1, details=False)


@one_family
def test_latency_has_a_row_for_each_precision(copy: Path) -> None:
    latency = benchmark(
        Bundle(copy),
        provider="cpu",
        batch_sizes=[1],
        compare=ComparisonOptions(),
        least=MinSamples(2, 0),
        measured=QUICK,
    )
    assert [row["precision"] for row in latency["rows"]] == ["fp32", "fp16", "int8"]
    assert set(latency["graphs"]) == {"fp32", "fp16", "int8"}


@one_family
def test_a_bundle_of_int8_alone_is_served_by_default(finished_run: Path, tmp_path: Path) -> None:
    export_bundle(Run(finished_run), tmp_path / "bundle", ExportOptions(precisions=["int8"]))
    opened = Bundle(tmp_path / "bundle")
    assert (opened.manifest.default, opened.precisions) == ("model.int8.onnx", ["int8"])
    files = [opened.path / "golden" / name for name in opened.golden().names]
    by_label = [entry["label"] for entry in Classifier.open(opened, threads=1).entries(files)]
    assert by_label == [opened.labels[row.argmax()] for row in opened.golden().outputs["int8"]]
    assert verify(opened.path)["passed"]
    with pytest.raises(ToolkitError, match="no fp32 graph"):
        opened.session(precision="fp32")


@one_family
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (ExportOptions(precisions=["bf16"]), "CPUExecutionProvider can't run bf16"),
        (ExportOptions(precisions=["int9"]), "no precision 'int9'"),
        (ExportOptions(precisions=["int8"], calibration_images=37), "37 calibration images were asked for"),
    ],
)
def test_what_can_not_be_exported_is_said_and_leaves_nothing(
    wanted: ExportOptions, says: str, finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match=says):
        export_bundle(Run(finished_run), tmp_path / "bundle", wanted)
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_that_are_all_alike_are_refused(finished_run: Path) -> None:
    candidates = PrecisionSearch(Run(finished_run), provider="cpu", threads=1)
    model = build_graph(
        candidates.run.classifier,
        candidates.validation.preprocess,
        {},
        "pixel_values",
        GraphConfig(fuse_skip_layernorm=False),
    )
    height, width = candidates.validation.preprocess.output_size or (0, 0)
    matmuls = quantisable(candidates.run.classifier, candidates.validation.preprocess, model)[1:]
    alike = {"pixel_values": np.ones((4, 3, height, width), np.float32)}
    with pytest.raises(ToolkitError, match="all 8 calibration images are alike"):
        observe(model, matmuls, [alike, alike])


@one_family
def test_an_activation_that_overflows_fp16_stays_fp32_and_is_reported(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights = load_file(run / "best" / "model.safetensors")
    (fc1,) = (name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    for name in (fc1, fc1.replace("weight", "bias")):
        weights[name] *= 2e6
    weights[fc1.replace("fc1", "fc2")] /= 2e6
    save_file(weights, run / "best" / "model.safetensors")
    parity = export_bundle(Run(run), tmp_path / "bundle", ExportOptions(precisions=["fp16"]))
    entry = parity["results"]["fp16"]["cpu"]
    assert entry["passed"]
    keep_fp32 = entry["form"]["islands"]
    assert any(name.endswith("layers.1.mlp.fc1") for name in keep_fp32)
    assert max(keep_fp32.values()) > float(np.finfo(np.float16).max)


class TestTrunk:
    """A run whose layers learned on an int8 trunk."""

    @pytest.fixture(scope="class", params=["clip", "siglip"])
    def aware_run(
        self,
        request: pytest.FixtureRequest,
        make_recipe: Callable[..., Recipe],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Path:
        from recipes.finetune import finetune

        out = tmp_path_factory.mktemp("aware") / request.param
        cache = {"enabled": request.param == "clip"}
        finetune(make_recipe(request.param, training={"trunk_precision": "int8", "boundary_cache": cache}), out)
        return out

    def test_it_is_exported_with_that_very_trunk(self, aware_run: Path, tmp_path: Path) -> None:
        run = Run(aware_run)
        assert run.trunk is not None
        parity = export_bundle(run, tmp_path / "bundle")
        (entry,) = parity["results"]["int8"].values()
        assert entry["passed"]
        trunk, shipped = (
            GraphConfig.model_validate(config).quantization for config in (run.trunk["form"], entry["form"])
        )
        assert set(trunk.matmuls) <= set(shipped.matmuls)
        assert all(shipped.ranges[name] == limits for name, limits in trunk.ranges.items())

    def test_with_float_layers_behind_it_the_graph_gives_what_training_gave(self, aware_run: Path) -> None:
        candidates = PrecisionSearch(Run(aware_run), provider="cpu", threads=1)
        _, float_behind = candidates.configs.base()
        assert candidates.measured.metrics(float_behind)["mean_abs_logit"] < 1e-5

    def test_the_figures_of_the_run_are_those_of_the_trunk(self, aware_run: Path) -> None:
        run = Run(aware_run)
        examples = run.data.splits["test"]
        reference = Reference(run)
        logits = reference.logits(reference.inputs(examples))
        with (aware_run / "test_predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        told = np.array([[float(row[f"logit:{name}"]) for name in run.classifier.labels] for row in rows])
        np.testing.assert_allclose(logits, told, atol=1e-4)
        assert np.abs(reference.without_trunk(reference.inputs([examples[0]])) - told[:1]).max() > 1e-3

    def test_another_trunk_is_refused(self, aware_run: Path, tmp_path: Path) -> None:
        with pytest.raises(ToolkitError, match="learned on a trunk in int8, and fp32") as caught:
            export_bundle(Run(aware_run), tmp_path / "bundle", ExportOptions(precisions=["fp32"]))
        assert "--precision int8" in caught.value.fix
        run = Path(shutil.copytree(aware_run, tmp_path / "run"))
        weights = load_file(run / "best" / "model.safetensors")
        (name,) = (name for name in weights if name.endswith("layers.0.mlp.fc1.weight"))
        weights[name] *= 1.5
        save_file(weights, run / "best" / "model.safetensors")
        with pytest.raises(ToolkitError, match="not the one that the run learned on"):
            export_bundle(Run(run), tmp_path / "bundle")
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    @pytest.mark.parametrize(
        ("family", "precision", "model"),
        [
            ("clip", "int8", {"unfreeze_last": 0}),
            ("siglip", "int8", {"unfreeze": ["post_norm", "projection", "head"]}),
            ("clip", "fp16", {"unfreeze": ["post_norm", "projection", "head"]}),
            ("siglip", "fp16", {"unfreeze_last": 1}),
        ],
    )
    def test_wherever_the_trunk_ends(
        self, family: str, precision: str, model: dict[str, Any], make_recipe: Callable[..., Recipe], tmp_path: Path
    ) -> None:
        from recipes.finetune import finetune

        training = {"trunk_precision": precision, "epochs": 1, "boundary_cache": {"enabled": True}}
        finetune(make_recipe(family, model=model, training=training), tmp_path / "run")
        parity = export_bundle(Run(tmp_path / "run"), tmp_path / "bundle", ExportOptions("pixel_values"))
        assert list(parity["results"]) == [precision]
        assert verify(tmp_path / "bundle")["passed"]

    @pytest.mark.parametrize("content", ['{"boundary": "nowhere"}', "{}", '{"precision": "int8"}', "garbage"])
    def test_a_damaged_description_is_refused(self, content: str, aware_run: Path, tmp_path: Path) -> None:
        run = Path(shutil.copytree(aware_run, tmp_path / "run"))
        described = json.loads((run / "trunk.json").read_text())
        edited = json.dumps(described | json.loads(content)) if "nowhere" in content else content
        (run / "trunk.json").write_text(edited)
        with pytest.raises(ToolkitError, match=r"trunk\.json"):
            export_bundle(Run(run), tmp_path / "bundle")


@one_family
class TestChoice:
    """``--precision auto``."""

    @pytest.fixture(scope="class", autouse=True)
    def _little(self) -> Iterator[None]:
        """Twenty runs of a form are enough here, where nothing hangs on its latency."""
        with pytest.MonkeyPatch.context() as counts:
            counts.setattr("export.selection.fastest.SECONDS", 0.0)
            yield

    @pytest.fixture(scope="class")
    def candidates(self, finished_run: Path) -> PrecisionSearch:
        return PrecisionSearch(Run(finished_run), provider="cpu", threads=1)

    def test_the_fastest_within_the_budget_is_taken(self, candidates: PrecisionSearch) -> None:
        best = fastest_within_budget([candidates], "pixel_values", 100.0)
        assert all(each["within_budget"] for each in candidates.measured.tried)
        assert best.metrics["p50_ms"] == min(each["p50_ms"] for each in candidates.measured.tried)
        assert [each["chosen"] for each in candidates.measured.tried].count(True) == 1
        assert len({each["form"] for each in candidates.measured.tried}) >= 6
        low, high = best.metrics["accuracy_drop_interval"]
        assert low <= best.metrics["accuracy_drop"] <= high

    def test_fp32_loses_nothing(self, candidates: PrecisionSearch) -> None:
        fp32 = candidates.configs.base()[0]
        assert candidates.measured.metrics(fp32)["top1_agreement"] == 1.0
        drop, images = candidates.measured.accuracy_drop(fp32), len(candidates.validation.labels)
        assert drop.value == 0
        assert drop.at_most == pytest.approx(1 - 0.05 ** (1 / images))  # all that so few images can show

    def test_too_few_images_decide_for_fp32_and_nothing_that_loses_is_taken(self, candidates: PrecisionSearch) -> None:
        best = fastest_within_budget([candidates], "pixel_values", 0.2)
        assert best.config.precision == "fp32"
        for each in candidates.measured.tried:
            sure = each["accuracy_drop_at_most"] <= 0.2 or each["precision"] == "fp32"
            assert each["within_budget"] == (each["verdict"] == "kept") == (each["accuracy_drop"] <= 0.2 and sure)
            assert each["accuracy_drop"] <= each["accuracy_drop_at_most"]
        assert "undecided" in {each["verdict"] for each in candidates.measured.tried}

    def test_a_budget_that_nothing_keeps_names_the_nearest(self, candidates: PrecisionSearch) -> None:
        with pytest.raises(CheckFailed, match=r"no config keeps a budget of -50 .* nearest: .*which loses"):
            fastest_within_budget([candidates], "pixel_values", -50.0)

    def test_the_temperature_is_fitted_again_where_that_pays(self, candidates: PrecisionSearch) -> None:
        config = candidates.configs.base()[1]
        calibrated, found = candidates.measured.calibrated(config)
        assert found is not None
        assert found["kept"] == (found["nll_before"] - found["nll_fitted"] > WORTHWHILE)
        assert calibrated.temperature == (found["fitted"] if found["kept"] else None)
        assert candidates.measured.calibrated(candidates.configs.base()[0]) == (candidates.configs.base()[0], None)
        before, labels = float(candidates.run.classifier.temperature), torch.tensor(candidates.validation.labels)
        own = [fit_temperature(torch.from_numpy(x), labels, before) for x in self._logits(candidates)]
        assert found["fitted"] == pytest.approx(before * own[0] / own[1])
        pixel_values = torch.zeros(1, 3, *(candidates.validation.preprocess.output_size or (0, 0))).numpy()
        session = candidates.measured.session(config.model_copy(update={"temperature": 3.0}))
        logits, probabilities = session.run({"pixel_values": pixel_values}).values()
        np.testing.assert_allclose(probabilities, torch.softmax(torch.from_numpy(logits) / 3, -1), atol=1e-6)

    @staticmethod
    def _logits(candidates: PrecisionSearch) -> list[Any]:
        """The first int8 form's and the reference's, on the validation images."""
        pixel_values = np.stack(
            [candidates.validation.preprocess(example.decode()) for example in candidates.validation.examples]
        )
        return [
            candidates.measured.session(candidates.configs.base()[1]).run({"pixel_values": pixel_values})["logits"],
            candidates.validation.expected,
        ]

    def test_the_table_travels_with_the_bundle(self, finished_run: Path, tmp_path: Path) -> None:
        parity = export_bundle(Run(finished_run), tmp_path / "bundle", ExportOptions(budget=100.0))
        assert json.loads((tmp_path / "bundle" / "parity.json").read_text())["tried"] == parity["tried"]
        (precision,) = parity["results"]
        assert Bundle(tmp_path / "bundle").precisions == [precision]
        report = (tmp_path / "bundle" / "report.html").read_text()
        assert "within the budget" in report
        assert all(each["form"] in report for each in parity["tried"])
