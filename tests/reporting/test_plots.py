"""The plots of a run: what stands on them is what the summary says."""

from __future__ import annotations

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
from toolkit.training.bootstrap import intervals
from toolkit.training.metrics import split_metrics

from toolkit.errors import ToolkitError
from toolkit.reporting.calibration_plot import plot_reliability
from toolkit.reporting.contact_sheet import TILE, TILES, contact_sheet, letterboxed, worst
from toolkit.reporting.look import LOOK
from toolkit.reporting.plots import plot_run
from toolkit.reporting.predictions import FILE, Predictions, read_predictions
from toolkit.reporting.ranking_plots import plot_precision_recall, plot_roc

PLOTS = {"curves", "confusion_matrix", "reliability", "roc", "precision_recall"}


def made_up(classes: int, images: int = 300, strength: float = 1.5) -> tuple[Predictions, dict[str, Any]]:
    """Random predictions that are better than chance, and the summary of them."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=generator)
    logits += strength * torch.nn.functional.one_hot(labels, classes)
    names = [f"class $x_{index}$ of <a> rather long & odd name" for index in range(classes)]
    paths = [f"test/{index:04d}.png" for index in range(images)]
    predictions = Predictions(paths, names, labels.numpy(), logits.double().numpy(), 1.7)
    test = split_metrics(logits, labels, 1.7) | {"intervals": intervals(logits, labels, 1.7, resamples=50)}
    before = split_metrics(logits, labels) | {"intervals": intervals(logits, labels, resamples=50)}
    return predictions, {"test": test, "uncalibrated": {"test": before}, "calibration_bins": 15}


def words(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_the_predictions_give_the_summarys_figures(finished_run: Path) -> None:
    predictions, summary = read_predictions(finished_run), json.loads((finished_run / "summary.json").read_text())
    logits, labels = torch.tensor(predictions.logits).float(), torch.tensor(predictions.labels)
    figures = split_metrics(logits, labels, predictions.temperature)
    assert figures == pytest.approx({name: summary["test"][name] for name in figures}, abs=1e-6)
    assert predictions.classes == summary["classes"]
    assert all(re.fullmatch(r"test/\w+/\d+\.png", path) for path in predictions.paths)
    stated = predictions.probabilities()[np.arange(len(labels)), labels]
    assert -np.log(stated).mean() == pytest.approx(summary["test"]["nll"], abs=1e-6)


def test_a_run_leaves_every_plot(finished_run: Path, tmp_path: Path) -> None:
    assert {path.stem for path in (finished_run / "plots").iterdir()} == PLOTS | {"worst_errors"}
    for path in (finished_run / "plots").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 300
    run = tmp_path / "run"
    run.mkdir()
    for name in ("metrics.jsonl", "summary.json", FILE):
        (run / name).write_bytes((finished_run / name).read_bytes())
    plot_run(run)
    assert {path.stem for path in (run / "plots").iterdir()} == PLOTS


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("plot", [plot_reliability, plot_roc, plot_precision_recall])
def test_the_figure_on_a_plot_is_the_summarys(
    plot: Callable[[Predictions, dict[str, Any]], Any], classes: int, tmp_path: Path
) -> None:
    predictions, summary = made_up(classes)
    with mpl.rc_context(LOOK):
        figure = plot(predictions, summary)
        figure.savefig(tmp_path / "plot.png")
    key = {plot_reliability: "expected_calibration_error", plot_roc: "auroc"}.get(plot, "average_precision")
    low, high = summary["test"]["intervals"][key]
    assert f"{summary['test'][key]:.3f} ({low:.3f} to {high:.3f})" in words(figure)
    assert "300 test images" in words(figure)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_area_under_the_curves_is_the_auroc(classes: int) -> None:
    predictions, summary = made_up(classes)
    lines = [line for line in plot_roc(predictions, summary).axes[0].lines if len(line.get_xdata()) > 2]
    curves = lines if classes == 2 else lines[:-1]
    assert np.mean([auc(*line.get_data()) for line in curves]) == pytest.approx(summary["test"]["auroc"], abs=1e-6)
    if classes > 2:
        assert auc(*lines[-1].get_data()) == pytest.approx(summary["test"]["auroc"], abs=2e-3)


def test_many_classes_have_no_legend_of_names() -> None:
    predictions, summary = made_up(40)
    assert "class $x_3$" not in words(plot_roc(predictions, summary))
    predictions, summary = made_up(4)
    assert "class $x_3$" in words(plot_roc(predictions, summary))


def colors(count: int) -> list[Callable[[], Image.Image]]:
    return [lambda value=index: Image.new("RGB", (30, 20), (value % 256, 0, 0)) for index in range(count)]


def test_the_worst_errors_come_first_and_nothing_that_is_right() -> None:
    predictions, _ = made_up(3)
    chosen, title = worst(predictions)
    stated = predictions.probabilities()[np.arange(300), predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    assert len(chosen) == TILES
    assert title == f"{len(wrong)} errors on 300 test images, the worst {TILES}"
    assert all(predictions.predicted[index] != predictions.labels[index] for index in chosen)
    assert stated[chosen].tolist() == np.sort(stated[wrong])[:TILES].tolist()
    figure = contact_sheet(predictions, colors(300))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == TILES
    middle = [int(axes.images[0].get_array()[TILE // 2, TILE // 2, 0]) for axes in shown]
    assert middle == [index % 256 for index in chosen]
    assert f"{chosen[0]:04d}.png" in words(figure)


def test_without_errors_the_least_certain_are_shown(tmp_path: Path) -> None:
    predictions, _ = made_up(3, images=5, strength=50)
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


@pytest.mark.parametrize("content", [None, b"", b"path,label\n", b"path,label,predicted,logit:a\nx,b,b,1\n"])
def test_damaged_predictions_are_named(finished_run: Path, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "summary.json").write_bytes((finished_run / "summary.json").read_bytes())
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    if content == b"path,label\n":
        assert read_predictions(tmp_path).paths == []
        return
    with pytest.raises(ToolkitError, match="can't read the predictions"):
        read_predictions(tmp_path)


def test_no_legend_covers_a_curve() -> None:
    for classes in (2, 10):
        predictions, summary = made_up(classes)
        for figure in (plot_roc(predictions, summary), plot_precision_recall(predictions, summary)):
            figure.savefig(io.BytesIO())
            (legend,) = figure.legends
            assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())
