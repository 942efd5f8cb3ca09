"""``evaluation.html``: one self-contained page of what a bundle gives on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import facts, headline, joined, number, page, paragraph, reads, table, within
from toolkit.reporting.model_card import metrics_named, named
from toolkit.reporting.quality_section import class_table, split_plots
from toolkit.reporting.wording import images_of, temperature_in_words


def evaluation_html(evaluation: dict[str, Any], plots: Path) -> str:
    """A page with metrics, plots and the worst errors; it needs no network, no scripts and no matplotlib.

    Args:
        evaluation: content of ``evaluation.json``.
        plots: folder of the PNG files; those that it lacks are left out.
    """
    images = images_of(evaluation["split"], evaluation["images"])
    absent, graph = evaluation["absent_classes"], f"{evaluation['precision']} on {evaluation['provider']}"
    sections = [
        ("metrics", "Metrics", _metrics(evaluation, images)),
        ("plots", "Plots", split_plots(evaluation, images, plots)),
        ("errors", "Errors", _errors(evaluation)),
        ("provenance", "Provenance", facts(_provenance(evaluation))),
    ]
    sentences = [
        f"What the graph in {graph} gives on {images} of {evaluation['data']}.",
        *([f"No image shows {named(absent)}: means over the classes leave these out."] if absent else []),
    ]
    low, high = evaluation["intervals"]["accuracy"]
    large = [
        (f"{evaluation['accuracy']:.1%}", f"accuracy (95 % interval {100 * low:.1f} to {100 * high:.1f})"),
        (f"{evaluation['majority_class_accuracy']:.1%}", "accuracy of always naming the most frequent class"),
    ]
    if "mae" in evaluation:
        low, high = evaluation["intervals"]["mae"]
        large.append((f"{evaluation['mae']:.2f}", f"classes off on average (95 % interval {low:.2f} to {high:.2f})"))
    if "micro_f1" in evaluation:
        large[0] = (
            large[0][0],
            f"of the images have all labels right (95 % interval {100 * low:.1f} to {100 * high:.1f})",
        )
        large[1] = number(evaluation["average_precision"]), "mean average precision of the labels"
    title = f"Evaluation of {Path(evaluation['bundle']).name}"
    return page(title, sentences, headline(large), sections)


def _metrics(evaluation: dict[str, Any], images: str) -> Markup:
    before, shown = evaluation["uncalibrated"]["expected_calibration_error"], metrics_named(evaluation)
    rows = [
        {"metric": name, "value": within(evaluation[key], evaluation["intervals"][key])}
        for key, name in (shown | {"average_precision": shown.get("average_precision", "average precision")}).items()
    ]
    point = evaluation["operating_point"]
    for rate in ("sensitivity", "specificity") if point else ():
        name = f"{rate}, {point['class']} from {point['threshold']:.4f}"
        rows.append({"metric": name, "value": within(point[rate], point["intervals"][rate])})
    columns = {"metric": reads("metric"), "value (95 % interval)": reads("value")}
    return joined(
        [
            table(f"Metrics of {images}", columns, rows),
            paragraph(f"Without the temperature the expected calibration error is {number(before)}."),
            class_table(evaluation["per_class"], images),
        ]
    )


def _errors(evaluation: dict[str, Any]) -> Markup:
    pairs = {name: reads(name) for name in ("label", "predicted", "images")}
    each = {name: reads(name) for name in ("path", "label", "predicted", "probability")}
    return joined(
        [
            table("The most frequent confusions", pairs, evaluation["confusions"]),
            table("The worst errors, the highest loss first", each, evaluation["worst"]),
        ]
    )


def _provenance(evaluation: dict[str, Any]) -> dict[str, str]:
    return {
        "bundle": evaluation["bundle"],
        "graph SHA-256": evaluation["graph_sha256"],
        "data": evaluation["data"],
        "data fingerprint": evaluation["data_fingerprint"],
        "temperature": temperature_in_words(evaluation["temperature"], number),
        "unreadable images left out": f"{evaluation['skipped']:,}" if evaluation["skipped"] else "",
        "texts that lost their end": f"{evaluation['truncated_texts']:,}" if evaluation["truncated_texts"] else "",
    }
