"""``MODEL_CARD.md``: what the model is, where it comes from, what it reached, in one page."""

from __future__ import annotations

from typing import Any

from toolkit.reporting.parity_verdict import parity_verdict
from toolkit.runtime.bundle import Manifest
from toolkit.text import for_markdown, markdown_code

NAMED = 20
"""Classes that a sentence names."""
FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "expected_calibration_error": "expected calibration error",
    "loss": "negative log-likelihood",
}


def model_card(manifest: Manifest, labels: list[str], parity: dict[str, Any], latency: dict[str, Any] | None) -> str:
    """Markdown with the figures that the run, parity and the benchmark measured."""
    origin = manifest.provenance
    recipe, data = origin["recipe"], origin["data"]
    model, source = recipe["model"], str(data.get("source", recipe["data"]["path"]))
    title, licence = str(data.get("name", "Image")), str(data.get("licence", "not stated"))
    lines = [
        f"# {for_markdown(title)} classifier",
        "",
        f"Classifies an image as one of {len(labels):,} classes: {for_markdown(named(labels))}.",
        "",
        f"- encoder: {markdown_code(model['encoder'])}, trained: {for_markdown(_selection(model))}",
        f"- head: {for_markdown(model['head']['type'])}; temperature of the probabilities: {origin['temperature']:.3f}",
        f"- data: {for_markdown(source)}",
        f"- licence of the data: {for_markdown(licence)}; the golden images here are part of it",
        f"- checkpoint SHA-256: {markdown_code(origin['checkpoint_sha256'])}",
        f"- data fingerprint: {markdown_code(origin['data_fingerprint'])}",
        f"- made by clip-toolkit {for_markdown(manifest.toolkit_version)}, {for_markdown(manifest.created)}",
        "",
        "## Figures",
        "",
        "| split | images | " + " | ".join(FIGURES.values()) + " |",
        "| --- |" + " --- |" * (len(FIGURES) + 1),
    ]
    for split in ("test", "validation", "train"):
        figures = origin["figures"][split]
        lines.append(
            f"| {split} | {figures['images']} | " + " | ".join(f"{figures[key]:.4f}" for key in FIGURES) + " |"
        )
    lines += [
        "",
        "The test split was used once, after the best epoch had been chosen on validation.",
        "",
        "## Parity",
        "",
    ]
    lines += [f"- {for_markdown(line)}" for line in parity_lines(parity)]
    if parity.get("tried"):
        columns = tried_columns(parity)
        lines += ["", f"Tried on {parity['tried'][0]['images']} validation images:", ""]
        lines += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        lines += [_table_row(row) for row in tried_cells(parity)]
    if latency:
        lines += ["", "## Latency", "", f"On {for_markdown(machine_line(latency))}.", ""]
        lines += ["| engine | provider | precision | batch | p50 ms | p90 ms | p99 ms | images/s |", "|" + " --- |" * 8]
        lines += [_table_row(row) for row in latency_cells(latency)]
    return "\n".join(lines) + "\n"


def _table_row(cells: list[str]) -> str:
    return f"| {' | '.join(map(for_markdown, cells))} |"


def named(labels: list[str]) -> str:
    """The classes in words, of many the first ones and how many more there are."""
    more = len(labels) - NAMED
    return ", ".join(labels[:NAMED]) + (f" and {more:,} more (labels.json)" if more > 0 else "")


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A sentence for each precision and provider."""
    return [
        f"{precision} on {provider}: {parity_verdict(entry)}; max |logit difference| "
        f"{entry['max_abs_logit']:.2e} (tolerance {entry['tolerance']:.0e}, noise floor {entry['noise_floor']:.2e}), "
        f"top-1 agreement {entry['top1_agreement']:.2%}, batch sizes {', '.join(map(str, entry['batch_sizes']))}"
        for precision, by_provider in parity["results"].items()
        for provider, entry in by_provider.items()
    ]


def tried_columns(parity: dict[str, Any]) -> list[str]:
    """Headings of :func:`tried_cells`."""
    columns = ["form", "agreement", "accuracy"]
    if any("p50_ms" in each for each in parity["tried"]):
        columns += ["points lost", "95 % interval", "at most", "p50 ms", "within the budget"]
    return columns


def tried_cells(parity: dict[str, Any]) -> list[list[str]]:
    """Forms that were measured on validation images before one was chosen, as text."""
    rows = []
    for each in parity["tried"]:
        row = [each["form"], f"{each['top1_agreement']:.2%}", f"{each['accuracy']:.2%}"]
        if "p50_ms" in each:
            low, high = each["accuracy_drop_interval"]
            open_question = each.get("verdict") == "undecided"
            verdict = "yes" if each["within_budget"] else "too few images" if open_question else "no"
            verdict = f"shipped ({verdict})" if each["chosen"] else verdict
            at_most = each.get("accuracy_drop_at_most")
            row += [f"{each['accuracy_drop']:+.2f}", f"{low:+.2f} to {high:+.2f}"]
            row += ["" if at_most is None else f"{at_most:.2f}"]
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


def _selection(model: dict[str, Any]) -> str:
    if model["unfreeze"] is not None:
        return ", ".join(model["unfreeze"])
    layers = model["unfreeze_last"]
    return f"the last {layers} layers, the post norm and the head" if layers else "the head"
