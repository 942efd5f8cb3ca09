"""``MODEL_CARD.md``: what the model is, where it comes from, what it reached, in one page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from toolkit.reporting.contract_lines import contract_lines
from toolkit.reporting.label_thresholds import HEADINGS as LABEL_HEADINGS
from toolkit.reporting.label_thresholds import label_cells, threshold_sentences
from toolkit.reporting.number_pages import NUMBER_METRICS
from toolkit.reporting.operating_point import HEADINGS, point_cells, point_sentences
from toolkit.reporting.parity_verdict import parity_verdict
from toolkit.reporting.wording import ABOUT_TASK, temperature_in_words
from toolkit.runtime.bundle import Manifest
from toolkit.text import for_markdown, markdown_code

NAMED = 20
"""Classes that a sentence names."""
UNTRAINED = {
    "zero-shot": "nothing; the head is the text embeddings of the labels",
    "few-shot": "by few images a class",
    "import": "elsewhere",
}
"""What stands for the groups that learned, by the method that made a run."""
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "expected_calibration_error": "expected calibration error",
    "loss": "negative log-likelihood",
}
ORDERED_METRICS = {"mae": "mean distance in classes", "quadratic_kappa": "quadratic kappa", "spearman": "Spearman"}
"""Of ordered classes."""
SET_METRICS = {
    "accuracy": "all labels right",
    "average_precision": "mean average precision",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "expected_calibration_error": "expected calibration error",
    "loss": "negative log-likelihood",
}
"""In place of those above, where an image may have several labels."""


def metrics_named(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The metrics of a split that are shown, and what they are called."""
    if "micro_f1" in metrics:
        return SET_METRICS
    if "rmse" in metrics:
        return NUMBER_METRICS
    return METRICS | {name: heading for name, heading in ORDERED_METRICS.items() if name in metrics}


def model_card(manifest: Manifest, labels: list[str], parity: dict[str, Any], latency: dict[str, Any] | None) -> str:
    """Markdown with the metrics that the run, parity and the benchmark measured, behind the hub's metadata."""
    origin = manifest.provenance
    recipe, data = origin["recipe"], origin["data"]
    point, thresholds = origin.get("operating_point"), origin.get("thresholds")
    test = origin["figures"].get("test", {})
    card = _templates().get_template("model_card.md.j2")
    return card.render(
        metadata=origin.get("card_metadata", ""),
        title=str(data.get("name", "Image")),
        labels=labels,
        classes=named(labels),
        about_task=ABOUT_TASK.get(manifest.task, ""),
        model=recipe["model"],
        selection=_selection(recipe),
        source=data_source(origin),
        licence=str(data.get("licence", "not stated")),
        origin=origin,
        manifest=manifest,
        metrics=metrics_named(test),
        temperature=temperature_in_words(origin["temperature"], lambda value: f"{value:.3f}"),
        several=thresholds is not None,
        number="rmse" in test,
        thresholds=" ".join(threshold_sentences(thresholds)) if thresholds else "",
        threshold_headings=LABEL_HEADINGS,
        threshold_rows=label_cells(thresholds, test.get("per_class", {})) if thresholds else [],
        splits=list(origin["figures"].items()),
        point=" ".join(point_sentences(point)) if point else "",
        point_headings=HEADINGS,
        point_rows=point_cells(point) if point else [],
        parity_lines=parity_lines(parity),
        tried=parity.get("tried"),
        tried_columns=tried_columns(parity) if parity.get("tried") else [],
        tried_rows=tried_cells(parity) if parity.get("tried") else [],
        machine=machine_line(latency) if latency else "",
        latency_rows=latency_cells(latency) if latency else [],
    )


@cache
def _templates() -> Environment:
    """The environment of the card: text that others chose is escaped by the filters ``text`` and ``code``."""
    found = Environment(
        loader=PackageLoader("toolkit.reporting"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"text": for_markdown, "code": markdown_code}
    return found


def card_metadata(origin: dict[str, Any], labels: list[str]) -> str:
    """The YAML that the Hugging Face hub reads of a model card: task, encoder and measured metrics.

    Args:
        origin: a run's provenance.
        labels: the classes.
    """
    from huggingface_hub import EvalResult, ModelCardData

    data, encoder = origin["data"], origin["recipe"]["model"]["encoder"]
    name, number = str(data.get("name", "image")), "rmse" in origin["figures"].get("test", {})
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split="test",
            metric_type=metric,
            metric_name=METRICS[metric],
            metric_value=round(origin["figures"]["test"][metric], 4),
        )
        for metric in ("accuracy", "balanced_accuracy", "auroc")
        if metric in origin["figures"].get("test", {}) and math.isfinite(origin["figures"]["test"][metric])
    ]
    found = ModelCardData(
        library_name="onnx",
        pipeline_tag="image-feature-extraction" if number else "image-classification",
        tags=["image-regression" if number else "image-classification", "onnx", "clip-toolkit"],
        base_model=encoder if _is_hub_name(encoder) else None,
        model_name=f"{labels[0]} of {name}" if number else f"{name} classifier, {len(labels):,} classes",
        eval_results=results,
    )
    return str(found.to_yaml())


def _is_hub_name(encoder: str) -> bool:
    """Whether a recipe's encoder is one of the hub's, and no folder."""
    is_name = encoder.count("/") == 1 and not encoder.startswith(("/", ".", "~"))
    return is_name and not Path(encoder).is_dir()


def named(labels: list[str]) -> str:
    """The classes in words, of many the first ones and how many more there are."""
    more = len(labels) - NAMED
    return ", ".join(labels[:NAMED]) + (f" and {more:,} more (labels.json)" if more > 0 else "")


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A sentence for each precision and provider, and those of a contract."""
    return [
        f"{precision} on {provider}: {parity_verdict(entry)}; max |logit difference| "
        f"{entry['max_abs_logit']:.2e} (tolerance {entry['tolerance']:.0e}, noise floor {entry['noise_floor']:.2e}), "
        f"top-1 agreement {entry['top1_agreement']:.2%}, batch sizes {', '.join(map(str, entry['batch_sizes']))}"
        for precision, by_provider in parity["results"].items()
        for provider, entry in by_provider.items()
    ] + contract_lines(parity)


FLIPS = ("flips, %", "at most, %", "x fp32")
"""Columns of what a contract bounds beside the accuracy."""


def _with_flips(parity: dict[str, Any]) -> bool:
    return any("flips_at_most" in each for each in parity["tried"])


def _with_providers(parity: dict[str, Any]) -> bool:
    """Whether forms were tried on several providers; files of older versions don't say."""
    return len({each.get("provider") for each in parity["tried"]}) > 1


def tried_columns(parity: dict[str, Any]) -> list[str]:
    """Headings of :func:`tried_cells`."""
    columns = ["form", *(["provider"] if _with_providers(parity) else []), "agreement", "accuracy"]
    if any("p50_ms" in each for each in parity["tried"]):
        columns += ["points lost", "95 % interval", "at most", *(FLIPS if _with_flips(parity) else ())]
        columns += ["p50 ms", "within the budget"]
    return columns


def tried_cells(parity: dict[str, Any]) -> list[list[str]]:
    """Forms that were measured on validation images before one was chosen, as text."""
    rows = []
    for each in parity["tried"]:
        accuracy = "" if each["accuracy"] is None else f"{each['accuracy']:.2%}"
        where = [each["provider"]] if _with_providers(parity) else []
        row = [each["form"], *where, f"{each['top1_agreement']:.2%}", accuracy]
        if "p50_ms" in each:
            low, high = each["accuracy_drop_interval"]
            open_question = each.get("verdict") == "undecided"
            verdict = "yes" if each["within_budget"] else "too few images" if open_question else "no"
            verdict = f"shipped ({verdict})" if each["chosen"] else verdict
            at_most = each.get("accuracy_drop_at_most")
            row += [f"{each['accuracy_drop']:+.2f}", f"{low:+.2f} to {high:+.2f}"]
            row += ["" if at_most is None else f"{at_most:.2f}"]
            if _with_flips(parity):
                speedup = each.get("speedup")
                row += [f"{each['flips']:.2f}", f"{each['flips_at_most']:.2f}"]
                row += ["" if speedup is None else f"{speedup:.2f}"]
            row += ["" if each["p50_ms"] is None else f"{each['p50_ms']:.2f}", verdict]
        rows.append(row)
    return rows


def latency_cells(latency: dict[str, Any]) -> list[list[str]]:
    """The rows of ``latency.json`` as text."""
    return [
        [
            row["engine"],
            row["provider"],
            row["precision"],
            str(row["batch_size"]),
            *(f"{row[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{row['throughput_ips']:.0f}",
        ]
        for row in latency["rows"]
    ]


def machine_line(latency: dict[str, Any]) -> str:
    """The machine in a few words."""
    machine = latency["machine"]
    return f"{machine['processor']}, {machine['usable_cores']} cores, {latency['rows'][0]['threads']} threads"


def data_source(origin: dict[str, Any]) -> str:
    """Where the labelled images of a run come from, in words."""
    config = origin["recipe"]["data"]
    return str(origin["data"].get("source", config["path"] if config else "none; nothing was measured on labels"))


def _selection(recipe: dict[str, Any]) -> str:
    """What learned, in words."""
    model = recipe["model"]
    if "method" in recipe:
        return UNTRAINED[recipe["method"]]
    if model["unfreeze"] is not None:
        return ", ".join(model["unfreeze"])
    layers = model["unfreeze_last"]
    return f"the last {layers} layers, the post norm and the head" if layers else "the head"
