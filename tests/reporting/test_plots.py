"""The plots of a run: what stands on them is what the summary says."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import auc

from toolkit.errors import ToolkitError
from toolkit.metrics.curves import curves_of
from toolkit.metrics.split import SplitScores, split_metrics
from toolkit.reporting.calibration_plot import plot_reliability
from toolkit.reporting.confusion_plot import plot_confusion
from toolkit.reporting.contact_sheet import TILE, contact_sheet, letterboxed
from toolkit.reporting.plot_style import LOOK
from toolkit.reporting.plots import plot_run
from toolkit.reporting.predictions import FILE, WORST, Predictions, read_predictions, worst
from toolkit.reporting.ranking_plots import plot_precision_recall, plot_roc
from toolkit.reporting.run_curves import CURVES, read_curves

PLOTS = {"curves", "confusion_matrix", "reliability", "roc", "precision_recall"}


def made_up(
    classes: int, images: int = 300, strength: float = 1.5
) -> tuple[dict[str, Any], dict[str, Any], Predictions]:
    """Random predictions that are better than chance: curves, summary and table."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=generator)
    logits += strength * torch.nn.functional.one_hot(labels, classes)
    names = [f"class $x_{index}$ of <a> rather long & odd name" for index in range(classes)]
    calibrated, as_trained = SplitScores(logits, labels, 1.7), SplitScores(logits, labels)
    test, before = ({**scores.metrics(), "intervals": scores.intervals()} for scores in (calibrated, as_trained))
    summary = {"test": test, "uncalibrated": {"test": before}, "temperature": 1.7, "classes": names}
    paths = [f"test/{index:04d}.png" for index in range(images)]
    predicted = [names[index] for index in calibrated.predicted]
    predictions = Predictions(
        paths,
        [names[index] for index in labels],
        predicted,
        calibrated.confidence,
        np.exp(-calibrated.losses),
    )
    return curves_of(calibrated, as_trained, names), summary, predictions


def words(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_the_table_gives_the_summarys_metrics(finished_run: Path) -> None:
    predictions, summary = read_predictions(finished_run), json.loads((finished_run / "summary.json").read_text())
    assert -np.log(predictions.label_probability).mean() == pytest.approx(summary["test"]["nll"], abs=1e-6)
    right = np.array(predictions.labels) == np.array(predictions.predicted)
    assert right.mean() == summary["test"]["accuracy"]
    assert all(re.fullmatch(r"test/\w+/\d+\.png", path) for path in predictions.paths)
    with (finished_run / FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    logits = torch.tensor([[float(row[f"logit:{name}"]) for name in summary["classes"]] for row in rows])
    labels = torch.tensor([summary["classes"].index(label) for label in predictions.labels])
    metrics = split_metrics(logits, labels, summary["temperature"])
    assert metrics == pytest.approx({name: summary["test"][name] for name in metrics}, abs=1e-6)
    curves = read_curves(finished_run)
    assert curves["images"] == summary["test"]["images"]
    binned = np.average(
        np.abs(np.subtract(*(curves["reliability"]["calibrated"][key] for key in ("accuracy", "confidence")))),
        weights=curves["reliability"]["calibrated"]["share"],
    )
    assert binned >= summary["test"]["expected_calibration_error"]


def test_a_run_leaves_every_plot(finished_run: Path, tmp_path: Path) -> None:
    assert {path.stem for path in (finished_run / "plots").iterdir()} == PLOTS | {"worst_errors"}
    for path in (finished_run / "plots").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 300
    run = tmp_path / "run"
    run.mkdir()
    for name in ("metrics.jsonl", "summary.json", CURVES):
        (run / name).write_bytes((finished_run / name).read_bytes())
    plot_run(run)
    assert {path.stem for path in (run / "plots").iterdir()} == PLOTS


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("plot", [plot_reliability, plot_roc, plot_precision_recall])
def test_the_metric_on_a_plot_is_the_summarys(
    plot: Callable[[dict[str, Any], dict[str, Any]], Any], classes: int, tmp_path: Path
) -> None:
    curves, summary, _ = made_up(classes)
    with mpl.rc_context(LOOK):
        figure = plot(curves, summary)
        figure.savefig(tmp_path / "plot.png")
    key = {plot_reliability: "expected_calibration_error", plot_roc: "auroc"}.get(plot, "average_precision")
    low, high = summary["test"]["intervals"][key]
    assert f"{summary['test'][key]:.3f} ({low:.3f} to {high:.3f})" in words(figure)
    assert "300 test images" in words(figure)


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_the_area_under_the_mean_curve_is_the_auroc(classes: int) -> None:
    curves, summary, _ = made_up(classes)
    lines = [line for line in plot_roc(curves, summary).axes[0].lines if len(line.get_xdata()) > 2]
    assert len(lines) == {2: 1, 5: 6, 40: 5}[classes]  # every class and the mean, or the four lowest and the mean
    assert auc(*lines[-1].get_data()) == pytest.approx(summary["test"]["auroc"], abs=2e-3)


def test_of_many_classes_the_lowest_are_named() -> None:
    curves, summary, _ = made_up(40)
    lowest = list(curves["roc"]["classes"])
    assert len(lowest) == 4
    assert "(lowest 1)" in words(plot_roc(curves, summary))
    assert "8 of 10 of the\n40 classes" in words(plot_roc(curves, summary))
    curves, summary, _ = made_up(4)
    assert "class $x_3$" in words(plot_roc(curves, summary))


@pytest.mark.parametrize("classes", [3, 30, 31, 1000])
def test_confusions_are_a_matrix_or_of_many_classes_the_most_frequent_ones(classes: int, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(classes)]
    matrix = np.eye(classes, dtype=int) * 5
    matrix[0, 1], matrix[2, 0] = 7, 4
    summary = {
        "classes": names,
        "confusion_matrix": matrix.tolist() if classes <= 100 else None,
        "confusions": [
            {"label": "class 0", "predicted": "class 1", "images": 7},
            {"label": "class 2", "predicted": "class 0", "images": 4},
        ],
        "test": {"images": int(matrix.sum()), "accuracy": np.trace(matrix) / matrix.sum()},
    }
    figure = plot_confusion(summary)
    figure.savefig(tmp_path / "plot.png")
    assert f"{5 * classes:,} of {5 * classes + 11:,} images right" in words(figure)
    assert ("class 0 → class 1" in words(figure)) == (classes > 30)
    with Image.open(tmp_path / "plot.png") as image:
        assert max(image.size) < 2200


def colors(count: int) -> list[Callable[[], Image.Image]]:
    return [lambda value=index: Image.new("RGB", (30, 20), (value % 256, 0, 0)) for index in range(count)]


def test_the_worst_errors_come_first_and_nothing_that_is_right() -> None:
    _, _, predictions = made_up(3)
    chosen, title = worst(predictions)
    wrong = [index for index in range(300) if predictions.predicted[index] != predictions.labels[index]]
    assert len(chosen) == WORST
    assert title == f"{len(wrong)} errors on 300 test images, the worst {WORST}"
    assert set(chosen) <= set(wrong)
    stated = predictions.label_probability
    assert stated[chosen].tolist() == np.sort(stated[wrong])[:WORST].tolist()
    figure = contact_sheet(predictions, colors(300))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == WORST
    middle = [int(axes.images[0].get_array()[TILE // 2, TILE // 2, 0]) for axes in shown]
    assert middle == [index % 256 for index in chosen]
    assert f"{chosen[0]:04d}.png" in words(figure)


def test_without_errors_the_least_certain_are_shown(tmp_path: Path) -> None:
    _, _, predictions = made_up(3, images=5, strength=50)
    chosen, title = worst(predictions)
    assert title.startswith("no errors on 5 test images")
    assert len(chosen) == 5
    with mpl.rc_context(LOOK):
        contact_sheet(predictions, colors(5)).savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (8, 8), (300, 200), (3000, 2000)])
def test_tiles_are_equal_squares(size: tuple[int, int]) -> None:
    tile = letterboxed(Image.new("RGB", size, (9, 9, 9)))
    assert tile.size == (TILE, TILE)
    assert (9, 9, 9) in {color for _, color in tile.getcolors()}


HEAD = b"path,label,predicted,probability,label_probability\n"


@pytest.mark.parametrize("content", [None, b"", b"path,label\n", HEAD + b"x,a,b,much,1\n", HEAD + b"x,a\n"])
def test_damaged_predictions_are_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ToolkitError, match="can't read the predictions"):
        read_predictions(tmp_path)
    (tmp_path / FILE).write_bytes(HEAD)
    assert read_predictions(tmp_path).paths == []


@pytest.mark.parametrize("content", [None, "", "[]", '{"images": 3}'])
def test_damaged_curves_are_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CURVES).write_text(content)
    with pytest.raises(ToolkitError, match="can't read the curves"):
        read_curves(tmp_path)


def test_no_legend_covers_a_curve() -> None:
    for classes in (2, 10, 40):
        curves, summary, _ = made_up(classes)
        for figure in (plot_roc(curves, summary), plot_precision_recall(curves, summary)):
            figure.savefig(io.BytesIO())
            (legend,) = figure.legends
            assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())
