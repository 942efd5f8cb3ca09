"""``report.html``: one self-contained page a bundle."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from toolkit.reporting.model_card import FIGURES, latency_cells, machine_line, parity_lines, tried_cells, tried_columns
from toolkit.runtime.bundle import Manifest

STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #0072B2; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2rem; border-bottom: 1px solid var(--line); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.figures li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; }
.figures b { display: block; font-size: 1.5rem; color: var(--accent); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .5rem; margin: .5rem 0; }
img[alt^="Confusion"] { max-width: min(100%, 34rem); display: block; }
code { overflow-wrap: anywhere; }
"""
PLOTS = {
    "curves": "Training curves",
    "confusion_matrix": "Confusion matrix on the test split",
    "reliability": "Reliability on the test split",
    "roc": "ROC curves on the test split",
    "precision_recall": "Precision and recall on the test split",
    "worst_errors": "The worst errors on the test split",
    "latency": "Latency",
}


def report_html(
    manifest: Manifest, labels: list[str], parity: dict[str, Any], latency: dict[str, Any] | None, plots: Path
) -> str:
    """A page with figures, parity, latency, plots (embedded) and provenance; it needs no network."""
    origin = manifest.provenance
    test = origin["figures"]["test"]
    name = origin["data"].get("name", "image")
    worst = max(entry["max_abs_logit"] for by in parity["results"].values() for entry in by.values())
    headline = [
        (f"{test['accuracy']:.1%}", f"accuracy on {test['images']} test images"),
        (f"{worst:.1e}", "max |logit difference| to PyTorch"),
    ]
    if latency:
        row = latency["rows"][0]
        headline.append(
            (f"{row['p50_ms']:.3g} ms", f"p50 at batch {row['batch_size']}, {row['engine']} {row['provider']}")
        )
    splits = [
        [split, str(origin["figures"][split]["images"]), *(f"{origin['figures'][split][key]:.4f}" for key in FIGURES)]
        for split in ("test", "validation", "train")
    ]
    body = [
        f"<h1>{escape(name)} classifier</h1>",
        f"<p>{len(labels)} classes: {escape(', '.join(labels))}.</p>",
        '<ul class="figures">'
        + "".join(f"<li><b>{figure}</b>{escape(what)}</li>" for figure, what in headline)
        + "</ul>",
        "<h2>Accuracy</h2>",
        _table(["split", "images", *FIGURES.values()], splits),
        *(_plot(plots, name) for name in PLOTS if name != "latency"),
        "<h2>Parity</h2>",
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in parity_lines(parity)) + "</ul>",
    ]
    if parity.get("tried"):
        images = parity["tried"][0]["images"]
        body += [
            f"<p>Forms that were tried on {images} validation images before one was chosen:</p>",
            _table(tried_columns(parity), tried_cells(parity)),
        ]
    if latency:
        columns = ["engine", "provider", "precision", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s"]
        body += [
            "<h2>Latency</h2>",
            f"<p>{escape(machine_line(latency))}.</p>",
            _table(columns, latency_cells(latency)),
        ]
        body.append(_plot(plots, "latency"))
    facts = {
        "encoder": origin["recipe"]["model"]["encoder"],
        "data": origin["data"].get("source", origin["recipe"]["data"]["path"]),
        "licence of the data": origin["data"].get("licence", "not stated"),
        "checkpoint SHA-256": origin["checkpoint_sha256"],
        "data fingerprint": origin["data_fingerprint"],
        "made by": f"clip-toolkit {manifest.toolkit_version}, {manifest.created}",
    }
    body += ["<h2>Provenance</h2>", "<ul>"]
    body += [f"<li>{escape(key)}: <code>{escape(str(value))}</code></li>" for key, value in facts.items()] + ["</ul>"]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(name)}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{"".join(body)}</body></html>\n'
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def _plot(plots: Path, name: str) -> str:
    path = plots / f"{name}.png"
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{PLOTS[name]}" src="data:image/png;base64,{content}">'
