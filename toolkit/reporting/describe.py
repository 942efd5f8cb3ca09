"""The pages of a bundle, written anew whenever its figures change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.files import write_bytes
from toolkit.reporting.model_card import model_card
from toolkit.reporting.report import report_html
from toolkit.runtime.bundle import Manifest

MEASURED_PLOTS = ("latency", "roofline", "server")
"""Plots of ``latency.json``."""


def describe(folder: Path, manifest: Manifest) -> None:
    """Write ``MODEL_CARD.md`` and ``report.html`` from the figures that lie in the bundle."""
    labels: list[str] = json.loads((folder / "labels.json").read_text())
    parity: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    latency, serving = (_read(folder / name) for name in ("latency.json", "serving.json"))
    page = report_html(manifest, labels, parity, latency, folder / "plots", serving)
    write_bytes(folder / "MODEL_CARD.md", model_card(manifest, labels, parity, latency).encode())
    write_bytes(folder / "report.html", page.encode())


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a file that a bundle need not hold."""
    content: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return content
