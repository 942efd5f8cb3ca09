"""Ordered classes from the recipe to the shipped bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from server_process import serving
from torch.nn import functional
from typer.testing import CliRunner

import toolkit
from export.bundle import ExportOptions, export_bundle
from export.graph.builder import GraphBuilder, model_of
from export.graph.ordered import add_ordered_logits, add_ordered_probabilities
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.models.head import OrdinalHead, build_head
from toolkit.ordered import log_odds_beyond, log_probabilities, median_of
from toolkit.recipe.model import HeadConfig
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import MedianClass
from toolkit.runtime.session import Session
from toolkit.runtime.verify import verify
from toolkit.tasks.ordinal import Ordinal
from toolkit.tasks.registry import TASKS

ORDER = ["red", "green", "blue"]
TASK = Ordinal()


def odds_of(images: int, classes: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(images, classes - 1, generator=torch.Generator().manual_seed(classes)) * scale


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_head_multiplies_the_answers_on_the_way(classes: int) -> None:
    odds = odds_of(50, classes).double()
    shares = OrdinalHead(torch.nn.Identity())(odds).exp()
    passes = odds.sigmoid()
    for place in range(classes):
        expected = passes[:, :place].prod(-1) * (1 - passes[:, place] if place < classes - 1 else 1)
        torch.testing.assert_close(shares[:, place], expected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(50).double())


def test_the_loss_is_that_of_the_paper_but_for_a_factor() -> None:
    """CORN's: binary cross-entropy of each question on the images that reach it, over the number of all answers."""
    classes, labels = 5, torch.arange(40) % 5
    odds = odds_of(40, classes)
    answers, total = 0, torch.zeros(())
    for place in range(classes - 1):
        reached = labels >= place
        beyond = (labels[reached] > place).float()
        total += functional.binary_cross_entropy_with_logits(odds[reached, place], beyond, reduction="sum")
        answers += int(reached.sum())
    logits = OrdinalHead(torch.nn.Identity())(odds)
    recipe_keys = Recipe.model_fields["training"].annotation
    assert recipe_keys is not None
    loss = TASK.loss(recipe_keys(epochs=1), list("abcde"), labels, torch.device("cpu"))(logits, labels)
    torch.testing.assert_close(loss.sum() / answers, total / answers)


def test_a_temperature_that_spoiled_the_odds_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = OrdinalHead(torch.nn.Identity())(odds_of(20_000, 4)).double().numpy()
    labels = torch.from_numpy((rng.random((20_000, 1)) > np.exp(logits).cumsum(-1)[:, :-1]).sum(-1))
    spoiled = torch.from_numpy(log_probabilities(logits, 1 / 2.5))
    assert TASK.temperature(spoiled, labels) == pytest.approx(2.5, rel=0.05)
    assert TASK.temperature(spoiled, labels, prior=2.0) == pytest.approx(2.5, rel=0.05)
    low, high = TASK.temperature_interval(spoiled, labels)
    assert low < 2.5 < high


def test_torch_says_what_numpy_says() -> None:
    logits = OrdinalHead(torch.nn.Identity())(odds_of(200, 5))
    labels = torch.arange(200) % 5
    assert TASK.right(logits, labels).tolist() == (median_of(logits.numpy()) == labels.numpy()).tolist()
    shares = TASK.probabilities(logits, torch.tensor(1.8))
    np.testing.assert_allclose(shares.numpy(), np.exp(log_probabilities(logits.numpy(), 1.8)), atol=1e-6)
    assert TASKS["ordinal"].decision.name == "ordinal"


def test_no_change_below_half_a_margin_changes_a_decision() -> None:
    decision, rng = MedianClass(), np.random.default_rng(0)
    logits = rng.normal(0, 2, (500, 5)).astype(np.float32)
    margins = decision.margins(logits)
    np.testing.assert_allclose(margins, np.abs(log_odds_beyond(logits)).min(-1), rtol=1e-6)
    for _ in range(20):
        moved = logits + 0.49 * margins[:, None] * rng.choice([-1, 1], logits.shape)
        assert (decision.decide(moved.astype(np.float32)) == decision.decide(logits)).all()


@pytest.mark.parametrize("classes", [2, 3, 30])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_graphs_nodes_compute_the_heads_logits_and_the_tasks_probabilities(classes: int, scale: float) -> None:
    odds, builder = odds_of(64, classes, scale), GraphBuilder()
    logits = add_ordered_logits(builder, "odds", classes, "head")
    add_ordered_probabilities(builder, logits, builder.constant(np.float32(3.0)), classes)
    entry = helper.make_tensor_value_info("odds", TensorProto.FLOAT, ["batch", classes - 1])
    shape = ["batch", classes]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "probabilities")]
    graph = helper.make_graph(builder.nodes, "ordered", [entry], outputs)
    opsets = [helper.make_opsetid("", 20)]
    model = model_of(graph, builder.initializers.values(), opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = Session(model.SerializeToString(), threads=1)
    given, shares = session.compute(["logits", "probabilities"], {"odds": odds.numpy()})
    expected = OrdinalHead(torch.nn.Identity())(odds.double()).numpy()
    np.testing.assert_allclose(given, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(shares, np.exp(log_probabilities(expected, 3.0)), atol=2e-6)
    assert (shares >= 0).all()


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(**sections: dict[str, Any]) -> Recipe:
        training = {"epochs": 8, "learning_rate": 3e-3, "boundary_cache": {"enabled": True}, "select_by": "mae"}
        wanted = {"data": {"classes": ORDER}, "model": {"task": "ordinal"}, "training": training}
        return make_recipe(**{name: wanted.get(name, {}) | sections.get(name, {}) for name in {*wanted, *sections}})

    return make


@pytest.fixture(scope="module")
def run(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "ordinal"
    finetune(recipe(training={"wise_ft": True}, tracking={"plots": True}), out)
    return Run(out)


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "ordinal"
    parity = export_bundle(run, out, ExportOptions(precisions=["fp32", "fp16", "int8"]))
    assert all(entry["cpu"]["passed"] for entry in parity["results"].values())
    return out


def test_it_learns_and_says_how_far_off_it_is(run: Run) -> None:
    test = run.summary["test"]
    assert test["accuracy"] > 0.8  # a third by chance
    assert test["quadratic_kappa"] > 0.7
    assert test["mae"] < 0.3
    assert run.summary["classes"] == ORDER
    for name in ("mae", "quadratic_kappa", "spearman"):
        low, high = test["intervals"][name]
        assert low <= test[name] <= high
        assert run.summary["train"][name] is not None
    assert json.loads((run.path / "best" / "config.json").read_text())["task"] == "ordinal"
    epochs = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all("mae" in each for each in epochs if each["split"] == "validation")
    assert (run.path / "plots" / "confusion_matrix.png").is_file()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_its_graph_gives_what_pytorch_gives(precision: str, run: Run, bundle: Path) -> None:
    opened = Bundle(bundle)
    entry = opened.parity_results[precision]["cpu"]
    assert entry["figures"]["mae"]["reference"] == pytest.approx(run.summary["test"]["mae"], abs=0.3)
    assert entry["figures"]["quadratic_kappa"]["graph"] == pytest.approx(
        entry["figures"]["quadratic_kappa"]["reference"], abs=0.2
    )
    found = toolkit.evaluate(bundle, data=run.data.root, precision=precision)
    assert found.model_dump()["mae"] == pytest.approx(entry["figures"]["mae"]["graph"], abs=0.2)
    assert found.classes == ORDER
    with toolkit.load(bundle, threads=1, precision=precision) as classifier:
        for each in classifier.predict([example.read() for example in run.held_out(20)]):
            assert each.label == ORDER[int(median_of(each.logits[None])[0])]
            shares = np.array(list(each.probabilities.values()))
            assert shares.sum() == pytest.approx(1, abs=1e-5)
            temperature = opened.temperature(precision)
            np.testing.assert_allclose(shares, np.exp(log_probabilities(each.logits[None], temperature))[0], atol=1e-5)
            below = shares.cumsum()  # the median of what is stated, whatever the temperature
            assert below[ORDER.index(each.label)] >= 0.5 - 1e-5


def test_it_is_verified_bisected_and_described(run: Run, bundle: Path) -> None:
    assert verify(bundle)["passed"]
    assert bisect_bundle(Bundle(bundle), run, provider="cpu", threads=1)["first_fault"] is None
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "the prediction is their median" in card
    assert "quadratic kappa" in card
    assert "classes off on average" in (bundle / "report.html").read_text()
    assert '"type": "mae"' in (bundle / "bom.json").read_text()


def test_the_command_line_evaluates_it(run: Run, bundle: Path, tmp_path: Path) -> None:
    asked = ["evaluate", str(bundle), "--data", str(run.data.root), "--json", "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, asked)
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert {"mae", "quadratic_kappa", "spearman"} <= set(found)
    assert {"mae", "quadratic_kappa", "spearman"} <= set(found["intervals"])
    assert "mean distance in classes" in (tmp_path / "out" / "evaluation.html").read_text()
    outcome = CliRunner().invoke(app, asked[:4])
    assert "quadratic kappa" in outcome.stdout


def test_whole_numbers_are_in_order_by_themselves_and_names_are_not(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    assert TASK.order_of(["0", "2", "10"], given=False) == "order of the classes: 0 < 2 < 10 (by value)"
    assert TASK.order_of(ORDER, given=True) == "order of the classes: red < green < blue (data.classes)"
    with pytest.raises(ToolkitError, match="needs an order of the classes, and 'blue' is no whole number") as caught:
        finetune(recipe(data={"classes": None}), tmp_path / "run")
    assert caught.value.where == "data.classes"
    assert "blue, green, red" in caught.value.fix
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("kind", ["cosine", "tip-adapter"])
def test_a_head_of_scores_is_refused(kind: Any) -> None:
    with pytest.raises(ToolkitError, match="ordered classes have none"):
        build_head(HeadConfig(type=kind), 8, 3, "conditional")


def test_other_tasks_have_no_distance_to_select_by(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="single-label has no metric 'mae'") as caught:
        finetune(make_recipe(training={"select_by": "mae"}), tmp_path / "run")
    assert caught.value.where == "training.select_by"


def test_a_threshold_on_one_grade_is_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    point = {"operating_point": {"class": "red", "sensitivity": 0.9}}
    with pytest.raises(ToolkitError, match="'ordinal' has no probability that a threshold can be set on"):
        finetune(recipe(training=point), tmp_path / "run")


def test_the_server_says_the_median_class(run: Run, bundle: Path, tmp_path: Path) -> None:
    content = run.held_out(1)[0].read()
    with toolkit.load(bundle, threads=1) as classifier:
        expected = classifier.predict(content)
    with serving(tmp_path / "log", bundle) as server:
        server.until_ready()
        (found,) = server.ask("POST", "/predict", content, {"content-type": "image/png"}).json()["predictions"]
    assert found["label"] == expected.label
    assert found["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)
