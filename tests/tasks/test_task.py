"""A second task goes through training, export and prediction, and nothing outside it knows which one it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import toolkit
from export.bundle import ExportOptions, export_bundle
from export.latency.tuning.search import Effort
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.metrics.by_task import SCORES
from toolkit.metrics.sigmoid_split import SigmoidSplitScores
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import TrainingConfig
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import DECISIONS, Decision, Integers
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.verify import verify
from toolkit.tasks.registry import TASKS
from toolkit.tasks.task import SINGLE_LABEL, Task
from toolkit.tasks.temperature import fit_temperature, temperature_interval


class SmallestLogit(Decision):
    """The class that is the least unlike the image."""

    name = "unlike"

    def decide(self, logits: Float32) -> Integers:
        return np.asarray(logits).argmin(-1)

    def margins(self, logits: Float32) -> Float32:
        least = np.sort(logits, axis=-1)[:, :2]
        return least[:, 1] - least[:, 0]


class UnlikeLoss(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor, mix: Any = None) -> Tensor:
        wrong = 1 - nn.functional.one_hot(labels, logits.shape[-1]).float()
        return nn.functional.binary_cross_entropy_with_logits(logits, wrong, reduction="none").sum(-1)


class UnlikeScores(SigmoidSplitScores):
    """Metrics by the sigmoid of how unlike each class is: the decision is the smallest logit."""

    @cached_property
    def predicted(self) -> Integers:
        return self.logits.argmin(-1)


class Unlike(Task):
    """Logits say how unlike a class an image is; sigmoid, smallest logit."""

    decision = SmallestLogit()
    activation = "sigmoid"

    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        return UnlikeLoss()

    def temperature(self, logits: Tensor, labels: Tensor, prior: float = 1.0) -> float:
        return fit_temperature(-logits, labels, prior)

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        return temperature_interval(-logits, labels)


@pytest.fixture(scope="module", autouse=True)
def second_task() -> Any:
    TASKS["unlike"], DECISIONS["unlike"], SCORES["unlike"] = Unlike(), Unlike.decision, UnlikeScores
    yield
    del TASKS["unlike"], DECISIONS["unlike"], SCORES["unlike"]


@pytest.fixture(scope="module")
def run(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "unlike"
    training = {"epochs": 8, "learning_rate": 3e-3, "boundary_cache": {"enabled": True}, "wise_ft": True}
    finetune(make_recipe(model={"task": "unlike"}, training=training, tracking={"plots": True}), out)
    return Run(out)


def test_it_learns_and_its_metrics_follow_its_decisions(run: Run) -> None:
    assert run.classifier.task.name == "unlike"
    assert json.loads((run.path / "best" / "config.json").read_text())["task"] == "unlike"
    test = run.summary["test"]
    assert test["accuracy"] > 0.8  # a third by chance; single-label's decision would be wrong almost always
    with torch.inference_mode():
        images = torch.rand(2, 3, 32, 32)
        logits = run.classifier(images)
        torch.testing.assert_close(
            run.classifier.probabilities(logits), (logits / run.classifier.temperature).sigmoid()
        )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_is_exported_proven_and_predicted(precision: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    entry = export_bundle(run, out, ExportOptions(precisions=[precision]))["results"][precision]["cpu"]
    assert entry["passed"]
    assert entry["figures"]["accuracy"]["reference"] == pytest.approx(run.summary["test"]["accuracy"], abs=0.3)
    graph = onnx.load(out / Bundle(out).graph_name())
    assert {node.op_type for node in graph.graph.node if node.output[0] == "probabilities"} == {"Sigmoid"}
    assert Bundle(out).manifest.task == "unlike"
    assert verify(out)["passed"]
    assert bisect_bundle(Bundle(out), run, provider="cpu", threads=1)["first_fault"] is None
    found = toolkit.evaluate(out, data=run.data.root)
    assert found.accuracy == pytest.approx(run.summary["test"]["accuracy"], abs=0.3)
    examples = run.held_out(20)
    with toolkit.load(out, threads=1) as classifier:
        predictions = classifier.predict([example.read() for example in examples])
    for prediction in predictions:
        assert prediction.label == classifier.labels[int(prediction.logits.argmin())]
        assert prediction.probability == prediction.probabilities[prediction.label]
    labels = [classifier.labels[example.label] for example in examples]
    assert np.mean([each.label == label for each, label in zip(predictions, labels, strict=True)]) > 0.7


def test_it_is_tuned(run: Run, tmp_path: Path) -> None:
    from export.latency.measure import MinSamples
    from export.latency.tuning.tune_bundle import tune_bundle
    from toolkit.runtime.serving import Budget

    export_bundle(run, tmp_path / "bundle", ExportOptions(precisions=["fp32", "int8"]))
    effort = Effort(MinSamples(2, 0), MinSamples(2, 0), 1, MinSamples(2, 0), MinSamples(2, 0), MinSamples(1, 0))
    tuned = tune_bundle(
        Bundle(tmp_path / "bundle"), Budget(p99_ms=5000, max_accuracy_drop=100), provider="cpu", effort=effort
    )
    assert all(abs(drop["points"]) <= 40 for drop in tuned["accuracy"].values())


def test_an_unknown_task_is_refused(make_recipe: Callable[..., Recipe], run: Run, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no task 'several'") as caught:
        finetune(make_recipe(model={"task": "several"}), tmp_path / "run")
    assert "single-label" in caught.value.fix
    export_bundle(run, tmp_path / "bundle")
    DECISIONS.pop("unlike")
    try:
        with pytest.raises(ToolkitError, match="knows no task 'unlike'"):
            verify(tmp_path / "bundle")
    finally:
        DECISIONS["unlike"] = Unlike.decision


def test_single_labels_probabilities_are_a_softmax() -> None:
    logits = torch.randn(5, 3)
    torch.testing.assert_close(SINGLE_LABEL.probabilities(logits, torch.tensor(2.0)), torch.softmax(logits / 2, -1))
