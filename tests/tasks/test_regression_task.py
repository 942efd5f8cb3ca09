"""A number an image, from a manifest's column to the shipped bundle."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from server_process import serving
from sklearn import metrics as sk
from typer.testing import CliRunner

import toolkit
from export.bundle import ExportOptions, export_bundle
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.models.head import NumberHead, build_head
from toolkit.recipe.model import HeadConfig
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import TrainingConfig
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify
from toolkit.tasks.regression import NumberLoss, Regression
from toolkit.training.mixing import Mix

IMAGES = 160


def write_numbers(root: Path, number_of: Callable[[float], object] = lambda level: 1000 + 2.5 * level) -> Path:
    """Noisy grey images of several sizes, and a manifest that says a number of each, which follows its brightness."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    with (root / "images.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "weight"])
        for place in range(IMAGES):
            level = float(rng.uniform(30, 225))
            pixels = level + rng.normal(0, 10, (*rng.integers(20, 60, 2), 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f"{place:03d}.png")
            table.writerow([f"{place:03d}.png", number_of(level)])
    return root / "images.csv"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("data") / "numbers")


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(path: Path, **sections: dict[str, Any]) -> Recipe:
        wanted: dict[str, dict[str, Any]] = {
            "data": {"path": path, "columns": {"number": "weight"}},
            "model": {"task": "regression"},
            "training": {"epochs": 15, "learning_rate": 3e-3, "boundary_cache": {"enabled": True}},
        }
        return make_recipe(**{name: wanted.get(name, {}) | sections.get(name, {}) for name in {*wanted, *sections}})

    return make


@pytest.fixture(scope="module")
def run(recipe: Callable[..., Recipe], numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "numbers"
    finetune(recipe(numbers, training={"wise_ft": True, "huber_delta": 1.0}, tracking={"plots": True}), out)
    return Run(out)


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "numbers"
    parity = export_bundle(run, out, ExportOptions(precisions=["fp32", "fp16", "int8"]))
    assert all(entry["cpu"]["passed"] for entry in parity["results"].values())
    return out


def test_it_learns_and_says_how_far_off_it_is(run: Run) -> None:
    test = run.summary["test"]
    assert test["mae"] < 0.4 * test["mean_baseline_mae"]
    assert test["r2"] > 0.75
    assert "accuracy" not in test
    for name, (low, high) in test["intervals"].items():
        assert low <= test[name] <= high, name
    labels = run.data.labels("train")
    head = run.classifier.head
    assert isinstance(head, NumberHead)
    assert float(head.mean) == pytest.approx(labels.mean(), rel=1e-6)
    assert float(head.deviation) == pytest.approx(labels.std(), rel=1e-6)
    assert json.loads((run.path / "best" / "labels.json").read_text()) == ["weight"]
    epochs = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all({"loss", "mae"} <= set(each) for each in epochs if "epoch_seconds" in each)
    assert (run.path / "plots" / "numbers.png").is_file()
    with (run.path / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said, true = ([float(row[name]) for row in rows] for name in ("predicted", "label"))
    assert sk.mean_absolute_error(true, said) == pytest.approx(test["mae"], abs=1e-6)


def test_splits_that_are_made_hold_all_quantiles(run: Run) -> None:
    spans = {split: (labels.min(), labels.max()) for split in run.data.splits for labels in [run.data.labels(split)]}
    whole = spans["train"][1] - spans["train"][0]
    assert all(high - low > 0.7 * whole for low, high in spans.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_its_graph_gives_the_number_itself(precision: str, run: Run, bundle: Path) -> None:
    entry = Bundle(bundle).parity_results[precision]["cpu"]
    deviation = float(run.classifier.head.deviation)  # type: ignore[arg-type]
    assert entry["figures"]["mae"]["graph"] == pytest.approx(entry["figures"]["mae"]["reference"], abs=0.2 * deviation)
    graph = onnx.load(bundle / Bundle(bundle).graph_name(precision), load_external_data=False)
    assert [each.name for each in graph.graph.output] == ["logits", "value"]
    examples = run.held_out(12)
    with toolkit.load(bundle, threads=1, precision=precision) as classifier:
        predictions = classifier.predict([example.read() for example in examples])
    for each, example in zip(predictions, examples, strict=True):
        assert each.value == pytest.approx(float(each.logits[0]))
        assert (each.label, dict(each.probabilities)) == ("", {})
        assert abs(each.value - float(example.label)) < 2 * deviation  # type: ignore[arg-type, operator]
    found: Any = toolkit.evaluate(bundle, data=run.data.root, split="test", precision=precision)
    assert found.mae == pytest.approx(entry["figures"]["mae"]["graph"], abs=0.2 * deviation)


def test_pytorch_and_the_fp32_graph_say_the_same(run: Run, bundle: Path) -> None:
    found: Any = toolkit.evaluate(bundle, data=run.data.root, split="test")
    for name in ("mae", "rmse", "r2", "spearman", "loss"):
        assert getattr(found, name) == pytest.approx(run.summary["test"][name], rel=1e-3), name


def test_it_is_verified_bisected_and_described(run: Run, bundle: Path) -> None:
    assert verify(bundle)["passed"]
    assert bisect_bundle(Bundle(bundle), run, provider="cpu", threads=1)["first_fault"] is None
    assert "Says a number of an image: weight." in (bundle / "MODEL_CARD.md").read_text()
    assert "mean absolute error on" in (bundle / "report.html").read_text()
    assert '"type": "rmse"' in (bundle / "bom.json").read_text()


def test_the_command_line_predicts_and_evaluates_it(run: Run, bundle: Path, tmp_path: Path) -> None:
    images = [str(example.path) for example in run.held_out(3)]
    outcome = CliRunner().invoke(app, ["predict", str(bundle), *images, "--json", "--out", str(tmp_path / "out.csv")])
    assert outcome.exit_code == 0, outcome.output
    entries = json.loads(outcome.stdout)["predictions"]
    assert all(set(each) == {"path", "value"} for each in entries)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [each["value"] for each in entries]
    assert "weight" in CliRunner().invoke(app, ["predict", str(bundle), *images]).stdout
    asked = ["evaluate", str(bundle), "--data", str(run.data.root)]
    outcome = CliRunner().invoke(app, [*asked, "--json", "--split", "test", "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    assert {"mae", "rmse", "r2", "spearman", "worst"} <= set(json.loads(outcome.stdout))
    assert "mean absolute error" in (tmp_path / "out" / "evaluation.html").read_text()
    assert (tmp_path / "out" / "plots" / "numbers.png").is_file()
    assert "RMSE" in CliRunner().invoke(app, asked).stdout
    outcome = CliRunner().invoke(app, [*asked, "--min-accuracy", "0.5"])
    assert isinstance(outcome.exception, ToolkitError)
    assert outcome.exception.where == "--min-accuracy"


def test_the_server_says_it(run: Run, bundle: Path, tmp_path: Path) -> None:
    content = run.held_out(1)[0].read()
    with toolkit.load(bundle, threads=1) as classifier:
        expected = classifier.predict(content).value
    with serving(tmp_path / "log", bundle) as server:
        server.until_ready()
        (found,) = server.ask("POST", "/predict", content, {"content-type": "image/png"}).json()["predictions"]
    assert found == {"value": pytest.approx(expected, rel=1e-6)}
    with serving(tmp_path / "app-log", bundle, verb="app") as server:
        server.until_ready()
        shown = server.ask("POST", "/app/predict", content, {"content-type": "image/png"}).json()
    assert (shown["value"], shown["classes"]) == (pytest.approx(expected, rel=1e-6), [])
    assert "probability" not in shown


def test_errors_count_in_standard_deviations_and_linearly_beyond_delta() -> None:
    logits, labels = torch.tensor([[3.0], [14.0], [-6.0]]), torch.tensor([1.0, 4.0, -6.0])
    assert NumberLoss(2.0, None)(logits, labels).tolist() == [0.5, 12.5, 0.0]
    assert NumberLoss(2.0, 1.0)(logits, labels).tolist() == [0.5, 4.5, 0.0]
    partners = [1, 2, 0]
    mixed = NumberLoss(2.0, None)(logits, labels, Mix(partners, 0.75))
    expected = 0.75 * NumberLoss(2.0, None)(logits, labels) + 0.25 * NumberLoss(2.0, None)(logits, labels[partners])
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("cell", ["heavy", "nan", "inf", ""])
def test_what_is_no_number_is_refused_with_its_row(cell: str, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = write_numbers(tmp_path / "data", lambda level: cell if level > 220 else level)
    with pytest.raises(ToolkitError, match=r"number .* in row"):
        finetune(recipe(path), tmp_path / "run")


def test_numbers_that_are_all_equal_are_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = write_numbers(tmp_path / "data", lambda level: 7.5)
    with pytest.raises(ToolkitError, match=r"all .* training images have the same weight, 7\.5"):
        finetune(recipe(path), tmp_path / "run")


def test_classes_are_no_numbers(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="takes a number an image, and the data has one class an image"):
        finetune(make_recipe(model={"task": "regression"}), tmp_path / "run")


@pytest.mark.parametrize(("key", "value"), [("label_smoothing", 0.1), ("class_weights", "balanced")])
def test_what_is_for_classes_is_refused(key: str, value: object) -> None:
    config = TrainingConfig.model_validate({"epochs": 1, key: value})
    with pytest.raises(ToolkitError, match="has no classes for") as caught:
        Regression().loss(config, ["weight"], torch.arange(5.0), torch.device("cpu"))
    assert caught.value.where == f"training.{key}"


def test_a_head_of_scores_and_a_budget_of_accuracy_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="a number has none"):
        build_head(HeadConfig(type="cosine"), 8, 1, "number")
    with pytest.raises(ToolkitError, match="never right or wrong"):
        export_bundle(run, tmp_path / "bundle", ExportOptions(budget=1.0))
