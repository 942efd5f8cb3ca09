"""A bundle of the tiny graph, written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tiny_graph import LABELS, PREPROCESS, expected_logits, graph_bytes

from toolkit.files import write_json
from toolkit.runtime.bundle import Golden, Manifest, write_manifest

PARITY_TOLERANCE = 1e-4
GOLDEN_NAMES = ["000.png", "001.png", "002.png"]
FILES = [
    *(f"golden/{name}" for name in GOLDEN_NAMES),
    "golden/reference.npz",
    "labels.json",
    "model.onnx",
    "parity.json",
    "preprocess.json",
]


def write_tiny_bundle(path: Path) -> Path:
    """Write it into a folder that does not exist yet."""
    golden = path / "golden"
    golden.mkdir(parents=True)
    rng = np.random.default_rng(2)
    for name in GOLDEN_NAMES:
        Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).save(golden / name)
    pixel_values = PREPROCESS.batch([golden / name for name in GOLDEN_NAMES])
    logits = expected_logits(pixel_values).astype(np.float32)
    Golden(GOLDEN_NAMES, {"pixel_values": pixel_values}, logits).save(path)
    (path / "model.onnx").write_bytes(graph_bytes())
    write_json(path / "labels.json", LABELS)
    write_json(path / "preprocess.json", PREPROCESS.model_dump(mode="json"))
    write_json(path / "parity.json", {"results": {"fp32": {"cpu": {"passed": True, "tolerance": PARITY_TOLERANCE}}}})
    write_manifest(path, Manifest(toolkit_version="0", created="2026-01-01T00:00:00+00:00"))
    return path


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
