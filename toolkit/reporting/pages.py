"""The pages of a bundle, written anew whenever its metrics change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from toolkit.errors import ToolkitError
from toolkit.files import sha256_of, write_bytes
from toolkit.reporting.bill_of_materials import BOM, bill_of_materials
from toolkit.reporting.model_card import model_card
from toolkit.reporting.report import report_html
from toolkit.runtime.bundle import Manifest
from toolkit.strict_json import read_json, reason_in

MEASURED_PLOTS = ("latency", "roofline", "server")
"""Plots of ``latency.json``."""
GRAPHS = ("*.onnx", "*.onnx.data")
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UndefinedError)
"""What reading metrics raises that are missing, or of another type: hashes fit whatever a stranger wrote."""


def write_pages(folder: Path, manifest: Manifest) -> None:
    """Write ``MODEL_CARD.md``, ``report.html`` and ``bom.json`` from the metrics that lie in the bundle.

    Raises:
        ToolkitError: metrics or provenance are not of the form that the toolkit writes.
    """
    for name, content in pages(folder, manifest).items():
        write_bytes(folder / name, content.encode())


def pages(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What :func:`write_pages` writes, by file; a verb that measures asks first whether it can be written.

    Raises:
        ToolkitError: see :func:`write_pages`.
    """
    try:
        labels, parity = (read_json((folder / name).read_bytes()) for name in ("labels.json", "parity.json"))
        latency, serving = (_read(folder / name) for name in ("latency.json", "serving.json"))
        return {
            "MODEL_CARD.md": model_card(manifest, labels, parity, latency),
            "report.html": report_html(manifest, labels, parity, latency, folder / "plots", serving),
            BOM: bill_of_materials(manifest, labels, parity, _run_from(folder)),
        }
    except MALFORMED as error:
        what = f"its metrics or its provenance are not as the toolkit writes them: {reason_in(error)}"
        raise ToolkitError(what, where=folder, fix="copy the bundle again, or export it again") from error


def _run_from(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a bundle runs from, by name."""
    graphs = [path for pattern in GRAPHS for path in sorted(folder.glob(pattern))]
    return {path.name: sha256_of(path) for path in [*graphs, folder / "labels.json", folder / "preprocess.json"]}


def _read(path: Path) -> Any:
    """Content of a file that a bundle need not hold."""
    return read_json(path.read_bytes()) if path.is_file() else None
