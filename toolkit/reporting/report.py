"""``report.html``: one self-contained page a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.reporting.html import facts, headline, number, page
from toolkit.reporting.latency_section import latency_section, machine_section
from toolkit.reporting.limits_section import limits_section
from toolkit.reporting.model_card import data_source, named
from toolkit.reporting.number_pages import number_headline
from toolkit.reporting.quality_section import parity_section, quality_section
from toolkit.reporting.serving_section import serving_section
from toolkit.reporting.wording import ABOUT_TASK, images_of, temperature_in_words
from toolkit.runtime.bundle import Manifest
from toolkit.runtime.latency_file import SHIPPED

CONTENTS = {
    "quality": "Quality",
    "parity": "Parity",
    "serving": "Production settings",
    "latency": "Latency",
    "roofline": "Roofline",
    "machine": "Machine",
    "provenance": "Provenance",
}


def report_html(
    manifest: Manifest,
    labels: list[str],
    parity: dict[str, Any],
    latency: dict[str, Any] | None,
    plots: Path,
    serving: dict[str, Any] | None = None,
) -> str:
    """A page with quality, parity, latency, plots and provenance; it needs no network, no scripts and no matplotlib.

    Args:
        manifest: of the bundle.
        labels: names of the classes.
        parity: content of ``parity.json``.
        latency: content of ``latency.json``, if the bundle was measured.
        plots: folder of the PNG files; those that it lacks are left out.
        serving: content of ``serving.json``, if settings were chosen.
    """
    origin = manifest.provenance
    title = f"{origin['data'].get('name', 'image')} classifier"
    sections = {
        "quality": quality_section(origin, plots),
        "parity": parity_section(parity),
        "serving": serving_section(serving),
        "latency": latency_section(latency, plots),
        "roofline": limits_section(latency, plots),
        "machine": machine_section(latency),
        "provenance": facts(_provenance(manifest)),
    }
    encoder = origin["recipe"]["model"]["encoder"]
    sentences = [
        f"Says a number of an image: {labels[0]}."
        if "rmse" in origin["figures"].get("test", {})
        else f"Classifies an image as one of {len(labels):,} classes: {named(labels)}."
        if manifest.thresholds is None
        else f"Says which of {len(labels):,} labels an image shows, any number of them or none: {named(labels)}.",
        *([ABOUT_TASK[manifest.task]] if manifest.task in ABOUT_TASK else []),
        f"{_made_by(origin)} {encoder} encoder and its head in one ONNX graph, made {manifest.created[:10]}.",
    ]
    large = headline(_headline(origin["figures"].get("test"), parity, latency, serving))
    return page(title, sentences, large, [(each, CONTENTS[each], body) for each, body in sections.items()])


def _headline(
    test: dict[str, Any] | None, parity: dict[str, Any], latency: dict[str, Any] | None, serving: dict[str, Any] | None
) -> list[tuple[str, str]]:
    """The metrics that a reader asks for first."""
    entries = [entry for by_provider in parity["results"].values() for entry in by_provider.values()]
    worst = max((entry["max_abs_logit"] for entry in entries), default=None)
    metrics: list[tuple[str, str]] = []
    if test is not None and "rmse" in test:
        metrics += number_headline(test, images_of("test", test["images"]))
    elif test is not None:
        bounds = test.get("intervals", {}).get("accuracy")
        interval = f" (95 % interval {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})" if bounds else ""
        metrics.append((f"{test['accuracy']:.1%}", f"accuracy on {test['images']:,} test images{interval}"))
        if "mae" in test:
            low, high = test["intervals"]["mae"]
            metrics.append((f"{test['mae']:.2f}", f"classes off on average (95 % interval {low:.2f} to {high:.2f})"))
        if "micro_f1" in test:
            metrics[-1] = (
                f"{test['accuracy']:.1%}",
                f"of {test['images']:,} test images have all labels right{interval}",
            )
            metrics.append((number(test["average_precision"]), "mean average precision of the labels"))
    if worst is not None:
        verdict = "parity passed" if all(entry["passed"] for entry in entries) else "parity FAILED"
        metrics.append((f"{worst:.1e}", f"largest |logit difference| to PyTorch: {verdict}"))
    rows = latency["rows"] if latency else []
    mine = [row for row in rows if row["engine"] in SHIPPED]
    if mine:
        first, fastest = mine[0], max(mine, key=lambda row: row["throughput_ips"])
        metrics.append((number(first["p50_ms"], " ms"), f"p50 of {_what(first)}"))
        metrics.append((number(fastest["throughput_ips"], "/s"), f"images, {_what(fastest)}"))
    if serving:
        metrics.append((f"{serving['precision']} {serving['provider']}", "chosen for production"))
    return metrics


def _made_by(origin: dict[str, Any]) -> str:
    method = origin["recipe"].get("method")
    return {"zero-shot": "A zero-shot", "few-shot": "A few-shot", "import": "An imported"}.get(method, "A fine-tuned")


def _what(row: dict[str, Any]) -> str:
    return f"batch {row['batch_size']}, {row['precision']} on {row['provider']}"


def _provenance(manifest: Manifest) -> dict[str, str]:
    origin = manifest.provenance
    recipe = origin["recipe"]
    return {
        "encoder": recipe["model"]["encoder"],
        "head": recipe["model"]["head"]["type"],
        "trained for": f"{recipe['training']['epochs']} epochs" if "epochs" in recipe.get("training", {}) else "",
        "temperature": temperature_in_words(origin.get("temperature"), number),
        "data": data_source(origin),
        "licence of the data": str(origin["data"].get("licence", "not stated")),
        "checkpoint SHA-256": origin["checkpoint_sha256"],
        "data fingerprint": origin["data_fingerprint"] or "",
        "made by": f"clip-toolkit {manifest.toolkit_version}, {manifest.created}",
    }
