"""What the classifier reached on its splits, and whether the graph gives the same."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.contract_lines import contract_lines
from toolkit.reporting.html import (
    NOTHING,
    Columns,
    folded,
    graph_name,
    joined,
    number,
    paragraph,
    plot,
    plots,
    reads,
    subsection,
    table,
)
from toolkit.reporting.label_thresholds import HEADINGS as LABEL_HEADINGS
from toolkit.reporting.label_thresholds import label_cells, threshold_sentences
from toolkit.reporting.model_card import metrics_named, tried_cells, tried_columns
from toolkit.reporting.number_pages import number_plots, number_table
from toolkit.reporting.operating_point import HEADINGS, point_cells, point_sentences
from toolkit.reporting.parity_verdict import parity_verdict
from toolkit.reporting.wording import images_of

LISTED_CLASSES = 50


def quality_section(origin: dict[str, Any], folder: Path) -> Markup:
    """Metrics of the splits, training curves, confusion, calibration, ranking and the worst errors.

    Args:
        origin: the manifest's provenance.
        folder: of the plots.
    """
    metrics = origin["figures"]
    if not metrics:
        return paragraph("Nothing was measured: the run has no labelled images. toolkit evaluate does it on some.")
    used_once = "The test split was used once, after the best epoch had been chosen on validation."
    if "method" in origin["recipe"]:
        used_once = "The test split chose nothing; the temperature was fitted on validation."
    test = metrics["test"]
    images = images_of("test", test["images"])
    columns = {"split": lambda split: split, "images": lambda split: f"{metrics[split]['images']:,}"}
    columns |= {name: _metric(metrics, key) for key, name in metrics_named(test).items()}
    if "rmse" in test:
        every = table("Metrics of each split", columns, ("test", "validation", "train"))
        return joined([paragraph(used_once), every, number_table(test, images), number_plots(images, folder)])
    return joined(
        [
            paragraph(used_once),
            table("Metrics of each split", columns, ("test", "validation", "train")),
            _operating_point(origin.get("operating_point")),
            _thresholds(origin.get("thresholds"), test, images),
            class_table(test.get("per_class", {}), images),
            plot(
                folder,
                "curves",
                "Training curves: loss and accuracy of the train and validation splits over the epochs, "
                f"with the kept epoch marked; {test['accuracy']:.1%} of the test images are right",
            ),
            split_plots(test, images, folder),
        ]
    )


def class_table(per_class: dict[str, dict[str, Any]], images: str) -> Markup:
    """Precision, recall and F1 of each class, folded; of many, those with the lowest F1.

    Args:
        per_class: metrics by class.
        images: how many of which split, in words.
    """
    classes = [{"class": name} | each for name, each in per_class.items()]
    which = f"Each of the {len(classes):,} classes"
    if len(classes) > LISTED_CLASSES:
        which = f"The {LISTED_CLASSES} classes with the lowest F1"
        classes = sorted(classes, key=lambda each: float(each["f1"] or 0))[:LISTED_CLASSES]
    named = ("class", "precision", "recall", "f1", "average_precision", "expected_calibration_error", "images")
    measures = {name.replace("_", " "): reads(name) for name in named}
    return folded(which, table(f"Each class on {images}", measures, classes))


def split_plots(metrics: dict[str, Any], images: str, folder: Path) -> Markup:
    """Confusion, calibration, ranking and the worst errors of a split; plots that were not drawn are left out.

    Args:
        metrics: of the split.
        images: how many of which split, in words.
        folder: of the plots.
    """
    right = f"{metrics['accuracy']:.1%} of the images are right"
    error, area = number(metrics["expected_calibration_error"]), number(metrics["auroc"])
    return joined(
        [
            plots(
                plot(
                    folder,
                    "confusion_matrix",
                    f"Confusions on {images}: a matrix whose rows are the true classes and whose columns the predicted "
                    f"ones, or of many classes the most frequent confusions; {right}",
                    "Confusions: true class and predicted class.",
                ),
                plot(
                    folder,
                    "reliability",
                    f"Reliability diagram of {images}: accuracy against stated confidence, before and after "
                    f"calibration; the expected calibration error is {error} after it",
                    "Reliability: on the dotted line, a stated confidence is right as often as it says.",
                ),
                plot(
                    folder,
                    "labels",
                    f"Precision, recall and average precision of each label on {images}, with 95 % intervals; {right}",
                    "What each label reaches at its threshold, with 95 % intervals.",
                ),
                plot(
                    folder,
                    "label_reliability",
                    f"Calibration of each label on {images}: how often it is there against its probability; the "
                    f"expected calibration error is {error}",
                    "Calibration: on the dotted line, a label is there as often as its probability says.",
                ),
                plot(folder, "roc", f"ROC curves on {images}; the area under them is {area}"),
                plot(folder, "precision_recall", f"Precision against recall on {images}"),
            ),
            plot(
                folder,
                "worst_errors",
                f"Contact sheet of the images the classifier got most wrong among {images}, with the true class, "
                "the predicted class and its probability",
                "The worst errors, the highest loss first.",
            ),
        ]
    )


def parity_section(parity: dict[str, Any]) -> Markup:
    """How far the graphs' logits lie from PyTorch's, and the forms that were tried."""
    entries = [
        {"precision": precision, "provider": provider} | entry
        for precision, by_provider in parity["results"].items()
        for provider, entry in by_provider.items()
    ]
    columns = {
        "graph": graph_name,
        "verdict": parity_verdict,
        "max |difference|": lambda entry: f"{entry['max_abs_logit']:.2e}",
        "tolerance": lambda entry: f"{entry['tolerance']:.1e}",
        "noise floor": lambda entry: f"{entry['noise_floor']:.1e}",
        "same top class": lambda entry: f"{entry['top1_agreement']:.2%}",
        "images": reads("images"),
        "batch sizes": lambda entry: ", ".join(map(str, entry["batch_sizes"])),
    }
    reference = parity.get("reference", "PyTorch in fp32")
    tried = parity.get("tried") or []
    headings = tried_columns(parity) if tried else []
    cells = tried_cells(parity) if tried else []
    count = tried[0]["images"] if tried else 0
    return joined(
        [
            paragraph(f"Each graph's logits on real images against the reference: {reference}."),
            table("Logits of the graph against the reference", columns, entries),
            subsection(
                "Forms that were tried",
                table(
                    f"On {count:,} validation images, before one was chosen",
                    {heading: itemgetter(at) for at, heading in enumerate(headings)},
                    cells,
                ),
            ),
            subsection("Contract", *map(paragraph, contract_lines(parity))),
        ]
    )


def _operating_point(point: dict[str, Any] | None) -> Markup:
    """The threshold that decides, where there is one."""
    if point is None:
        return NOTHING
    columns: Columns = {heading: itemgetter(at) for at, heading in enumerate(HEADINGS)}
    return subsection(
        "Operating point",
        paragraph(" ".join(point_sentences(point))),
        table("Rates at the threshold, with 95 % intervals", columns, point_cells(point)),
    )


def _thresholds(thresholds: dict[str, Any] | None, test: dict[str, Any], images: str) -> Markup:
    """From which probability on each label is said, and what that gives."""
    if thresholds is None:
        return NOTHING
    columns: Columns = {heading: itemgetter(at) for at, heading in enumerate(LABEL_HEADINGS)}
    cells = label_cells(thresholds, test.get("per_class", {}))
    return subsection(
        "Thresholds",
        paragraph(" ".join(threshold_sentences(thresholds))),
        table(f"Each label at its threshold on {images}, with 95 % intervals", columns, cells),
    )


def _metric(metrics: dict[str, Any], key: str) -> Any:
    return lambda split: number(metrics[split].get(key))
