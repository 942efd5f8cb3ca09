"""The medical example from its shipped recipe to predictions at the threshold, on stand-ins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import toolkit
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.recipe.reading import load_recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle, write_manifest
from toolkit.runtime.verify import verify

RECIPE = Path(__file__).parents[2] / "recipes" / "configs" / "pneumonia.yaml"
SMALL = ["model.encoder=tiny-clip", "model.unfreeze_last=1", "training.epochs=2", "training.head_learning_rate=0.003"]
CLASSES = ["NORMAL", "PNEUMONIA"]


@pytest.fixture(scope="module")
def run(chest_xrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = load_recipe(RECIPE, [f"data.path={chest_xrays}", *SMALL, "tracking.plots=false"])
    return toolkit.finetune(recipe, out=tmp_path_factory.mktemp("pneumonia") / "run")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toolkit.export(run, out=tmp_path_factory.mktemp("pneumonia") / "bundle", precision="fp32,fp16")


@pytest.fixture(scope="module")
def predictions(bundle: Bundle, run: Run) -> dict[str, tuple[str, float]]:
    """Of each test image by its path: what is said, and the probability of pneumonia."""
    paths = [example.path for example in run.data.splits["test"]]
    found = toolkit.load(bundle.path).predict(list(paths))
    return {str(path): (each.label, each.probabilities["PNEUMONIA"]) for path, each in zip(paths, found, strict=True)}


def test_the_threshold_holds_the_specificity_on_validation(run: Run) -> None:
    point = run.summary["operating_point"]
    assert (point["class"], point["target"]) == ("PNEUMONIA", {"specificity": 0.9})
    assert point["validation"]["specificity"] >= 0.9
    low, high = point["test"]["intervals"]["sensitivity"]
    assert low < point["test"]["sensitivity"] < high
    assert "independent validation images tell little" in point["note"]  # 6 patients without pneumonia


def test_the_label_is_pneumonia_exactly_from_the_threshold_on(
    bundle: Bundle, run: Run, predictions: dict[str, tuple[str, float]]
) -> None:
    threshold = run.summary["operating_point"]["threshold"]
    assert bundle.manifest.operating_point == run.operating_point
    assert {label for label, _ in predictions.values()} == set(CLASSES)
    for label, probability in predictions.values():
        assert (label == "PNEUMONIA") == (probability >= threshold)


def test_predictions_have_the_rates_that_the_summary_states(
    run: Run, predictions: dict[str, tuple[str, float]]
) -> None:
    stated = run.summary["operating_point"]["test"]
    for truth, rate in (("NORMAL", "specificity"), ("PNEUMONIA", "sensitivity")):
        said = [label for path, (label, _) in predictions.items() if Path(path).parent.name == truth]
        assert np.mean([label == truth for label in said]) == pytest.approx(stated[rate])


def test_every_graph_carries_the_point_and_is_proven_at_it(bundle: Bundle, run: Run) -> None:
    assert run.operating_point is not None
    for precision in ("fp32", "fp16"):
        model = onnx.load(bundle.path / bundle.graph_name(precision))
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(metadata["operating_point"]) == run.operating_point.model_dump()
        assert bundle.parity["results"][precision]["cpu"]["temperature"] is None  # the threshold is one of the run's
    assert (
        bundle.parity["results"]["fp32"]["cpu"]["smallest_margin"]
        <= bundle.decision.margins(bundle.golden().logits).min()
    )
    assert verify(bundle.path)["passed"]


def test_card_and_report_state_threshold_and_rates(bundle: Bundle, run: Run) -> None:
    point: dict[str, Any] = run.summary["operating_point"]
    for page in ("MODEL_CARD.md", "report.html"):
        text = (bundle.path / page).read_text("utf-8").replace("\\", "")  # Markdown escapes points
        assert "Operating point" in text
        assert f"{point['threshold']:.4f}" in text
        assert f"{point['test']['sensitivity']:.3f} (" in text


def test_a_manifest_with_another_threshold_than_the_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    opened = Bundle(copy)
    assert opened.manifest.operating_point is not None
    moved = opened.manifest.operating_point.model_copy(update={"threshold": 0.123})
    write_manifest(copy, opened.manifest.model_copy(update={"operating_point": moved}))
    with pytest.raises(ToolkitError, match="differs from the graph's operating point"):
        Bundle(copy).session()


def test_an_evaluation_has_the_rates_at_the_threshold(bundle: Bundle, run: Run, chest_xrays: Path) -> None:
    pattern = f"group_pattern={run.recipe.data.group_pattern}" if run.recipe.data else ""
    found = toolkit.evaluate(bundle, data=chest_xrays, split="test", settings=[pattern])
    written, point = run.summary["operating_point"], found.operating_point
    assert point is not None
    assert (point.label, point.threshold) == (written["class"], pytest.approx(written["threshold"]))
    for rate in ("sensitivity", "specificity"):
        assert getattr(point, rate) == written["test"][rate]
        assert list(point.intervals[rate]) == pytest.approx(written["test"]["intervals"][rate])
    assert found.model_dump()["operating_point"]["class"] == "PNEUMONIA"


def test_a_class_that_there_is_not_is_refused_before_training(chest_xrays: Path, tmp_path: Path) -> None:
    overrides = [f"data.path={chest_xrays}", *SMALL, "training.operating_point.class=COVID"]
    with pytest.raises(ToolkitError, match="no class 'COVID'") as caught:
        toolkit.finetune(load_recipe(RECIPE, overrides), out=tmp_path / "run")
    assert caught.value.where == "training.operating_point.class"
    assert "NORMAL, PNEUMONIA" in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_a_summary_whose_point_is_damaged_is_refused(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    write_json(copy / "summary.json", run.summary | {"operating_point": {"class": "PNEUMONIA", "threshold": 7}})
    with pytest.raises(ToolkitError, match="damaged operating point"):
        _ = Run(copy).decision
