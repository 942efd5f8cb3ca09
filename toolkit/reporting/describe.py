"""The pages of a bundle, written anew whenever its figures change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.files import write_bytes
from toolkit.reporting.model_card import model_card
from toolkit.reporting.report import report_html
from toolkit.runtime.bundle import Manifest


def describe(folder: Path, manifest: Manifest) -> None:
    """Write ``MODEL_CARD.md`` and ``report.html`` from the figures that lie in the bundle."""
    labels: list[str] = json.loads((folder / "labels.json").read_text())
    parity: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    measured = folder / "latency.json"
    latency: dict[str, Any] | None = json.loads(measured.read_text()) if measured.is_file() else None
    write_bytes(folder / "MODEL_CARD.md", model_card(manifest, labels, parity, latency).encode())
    write_bytes(folder / "report.html", report_html(manifest, labels, parity, latency, folder / "plots").encode())
