from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

from toolkit.runtime.bundle import Bundle

CARD = "---\nlibrary_name: onnx\n---\n\n# Colours\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle with a card."""
    path = write_tiny_bundle(tmp_path / "bundle")
    (path / "MODEL_CARD.md").write_text(CARD)
    Bundle(path).update_manifest()
    return path
