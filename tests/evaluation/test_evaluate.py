"""A bundle on labelled images: the run's own metrics again, by every way to the images, and mistakes in one line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import toolkit
from toolkit.errors import ToolkitError
from toolkit.evaluation.record import Evaluation
from toolkit.metrics.split import METRICS, SplitScores
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-3
"""Logits of fp32 graphs differ from PyTorch's by about 1e-5; far more could still not turn a label here."""
Flat = Callable[..., Path]


@pytest.fixture(scope="module")
def flat(color_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Flat:
    """Class folders without splits, of some of the colours."""

    def make(*classes: str) -> Path:
        root = tmp_path_factory.mktemp("flat")
        for image in sorted(color_data.glob("*/*/*.png")):
            if image.parent.name in classes:
                (root / image.parent.name).mkdir(exist_ok=True)
                shutil.copyfile(image, root / image.parent.name / f"{image.parts[-3]}-{image.name}")
        return root

    return make


def test_the_graphs_metrics_are_those_of_the_runs_summary(finished_run: Path, finished_bundle: Path) -> None:
    run = Run(finished_run)
    for split in ("test", "validation", "train"):
        found = toolkit.evaluate(finished_bundle, data=run.data.root, split=split)
        metrics = {name: getattr(found, name) for name in METRICS}
        assert metrics == pytest.approx({name: run.summary[split][name] for name in METRICS}, abs=TOLERANCE)
    found = toolkit.evaluate(finished_bundle, data=run.data.root)
    assert found.split == "test"
    assert found.confusion_matrix == run.summary["confusion_matrix"]
    assert [each.model_dump() for each in found.confusions] == run.summary["confusions"]
    for name, (low, high) in found.intervals.items():
        assert (low, high) == pytest.approx(run.summary["test"]["intervals"][name], abs=TOLERANCE)
    for name, metrics in found.per_class.items():
        assert metrics.model_dump() == run.summary["test"]["per_class"][name]
    before = run.summary["uncalibrated"]["test"]
    assert found.uncalibrated.nll == pytest.approx(before["nll"], abs=TOLERANCE)
    assert found.temperature == run.summary["temperature"]


def test_they_are_what_predict_says(finished_bundle: Path, color_data: Path) -> None:
    found = toolkit.evaluate(finished_bundle, data=color_data)
    images = sorted(color_data.glob("test/*/*.png"))
    with toolkit.load(finished_bundle) as classifier:
        predictions = classifier.predict(images)
    labels = np.array([classifier.labels.index(image.parent.name) for image in images])
    logits = np.stack([each.logits for each in predictions])
    scores = SplitScores(logits, labels, found.temperature)
    # the images come in another order, which changes the last bits of sums
    assert scores.metrics() == pytest.approx({name: getattr(found, name) for name in METRICS}, rel=1e-6)
    wrong = {
        str(image): each.probability
        for image, each in zip(images, predictions, strict=True)
        if each.label != image.parent.name
    }
    assert {each.path: each.probability for each in found.worst} == pytest.approx(wrong, rel=1e-5)


def test_a_manifest_gives_what_its_folder_gives(finished_bundle: Path, color_data: Path, tmp_path: Path) -> None:
    rows = [
        {"file": image, "finding": image.parent.name, "split": image.parts[-3]}
        for image in color_data.glob("*/*/*.png")
    ]
    with (tmp_path / "images.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    columns = ["columns.path=file", "data.columns.label=finding"]
    found = toolkit.evaluate(finished_bundle, data=tmp_path / "images.csv", settings=columns)
    folder = toolkit.evaluate(finished_bundle, data=color_data)
    assert found.model_dump(exclude={"data"}) == folder.model_dump(exclude={"data"})


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_without_splits_all_images_or_those_of_the_runs_seed(
    finished_bundle: Path, flat: Flat, make_recipe: Callable[..., toolkit.Recipe]
) -> None:
    data = flat("blue", "green", "red")
    found = toolkit.evaluate(finished_bundle, data=data)
    assert (found.split, found.images) == ("all", 72)
    from toolkit.data.source import fingerprint, open_data

    source = open_data(make_recipe(data={"path": data}).data)
    for split, images in source.splits.items():
        part = toolkit.evaluate(finished_bundle, data=data, split=split)
        assert part.images == len(images)
        assert part.data_fingerprint == fingerprint({split: images}, source.classes)


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_classes_that_the_data_lack_are_named_and_left_out_of_the_means(finished_bundle: Path, flat: Flat) -> None:
    found = toolkit.evaluate(finished_bundle, data=flat("blue", "red"))
    assert found.absent_classes == ["green"]
    assert np.shape(found.confusion_matrix) == (3, 3)
    recalls = [found.per_class[name].recall for name in ("blue", "red")]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    alone = toolkit.evaluate(finished_bundle, data=flat("red"))
    assert alone.auroc is None  # there is nothing to rank it before
    assert Evaluation.model_validate_json(alone.model_dump_json()) == alone


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_mistakes_are_named(finished_bundle: Path, flat: Flat, tmp_path: Path) -> None:
    data = flat("blue", "green", "red")
    with pytest.raises(ToolkitError, match="no split 'half'"):
        toolkit.evaluate(finished_bundle, data=data, split="half")
    with pytest.raises(ToolkitError, match="no int4 graph"):
        toolkit.evaluate(finished_bundle, data=data, precision="int4")
    with pytest.raises(ToolkitError, match="the bundle itself says value_range"):
        toolkit.evaluate(finished_bundle, data=data, settings=["value_range=[0, 9]"])
    (data / "red" / "bad.png").write_text("no image")
    with pytest.raises(ToolkitError, match="unreadable image") as caught:
        toolkit.evaluate(finished_bundle, data=data)
    assert "--skip-bad" in caught.value.fix
    found = toolkit.evaluate(finished_bundle, data=data, skip_bad=True)
    assert (found.images, found.skipped) == (72, 1)
    assert found.skipped_images[0]["path"].endswith("bad.png")
    shutil.copytree(data / "red", data / "purple")
    with pytest.raises(ToolkitError, match="labels that the classifier does not know: purple"):
        toolkit.evaluate(finished_bundle, data=data, skip_bad=True)
    shutil.copytree(data / "red", tmp_path / "half" / "val" / "red")
    with pytest.raises(ToolkitError, match="there is no split 'test', only validation"):
        toolkit.evaluate(finished_bundle, data=tmp_path / "half", skip_bad=True)


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_the_folder_holds_what_is_returned_and_a_page_with_or_without_plots(
    finished_bundle: Path, color_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = toolkit.evaluate(finished_bundle, data=color_data, out=tmp_path / "out")
    assert Evaluation.model_validate_json((tmp_path / "out" / "evaluation.json").read_text()) == found
    plots = {path.stem for path in (tmp_path / "out" / "plots").iterdir()}
    assert plots == {"confusion_matrix", "reliability", "roc", "precision_recall", "worst_errors"}
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert f"{found.accuracy:.1%}" in page
    with pytest.raises(ToolkitError, match="a folder of an evaluation is there already"):
        toolkit.evaluate(finished_bundle, data=color_data, out=tmp_path / "out")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    toolkit.evaluate(finished_bundle, data=color_data, out=tmp_path / "out", force=True)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "data:image/png" not in page
    assert f"{found.accuracy:.1%}" in page


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_temperature_of_the_graphs_own_is_used_and_one_that_is_not_its_own_refused(
    finished_bundle: Path, color_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle(finished_bundle)
    entry = dict(bundle.parity_results["fp32"]["cpu"])
    own = {"temperature": {"fitted": 3 * bundle.temperature("fp32"), "kept": True}}
    monkeypatch.setattr(Bundle, "parity_results", {"fp32": {"cpu": entry | own}})
    assert bundle.temperature("fp32") == own["temperature"]["fitted"]
    with pytest.raises(ToolkitError, match="probabilities are not those of its logits"):
        toolkit.evaluate(bundle, data=color_data)


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_the_verb_prints_the_metrics_on_top_and_exits_1_below_the_least_accuracy(
    finished_bundle: Path, flat: Flat
) -> None:
    data = flat("blue")
    shutil.copytree(data / "blue", data / "red")  # of two copies with other labels one is wrong

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toolkit", "evaluate", str(finished_bundle), "--data", str(data), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    done = run("--json", "--min-accuracy", "0")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found["accuracy"], float)
    assert {*METRICS, "intervals", "per_class", "worst", "data_fingerprint"} <= set(found)
    assert "the data makes no splits: all 48 images" in done.stderr
    assert "no image of: green" in done.stderr
    failed = run("--json", "--min-accuracy", "0.6")
    assert failed.returncode == 1
    assert json.loads(failed.stdout) == found
    assert "on 48 images is below 0.6 (95 % interval" in failed.stderr
