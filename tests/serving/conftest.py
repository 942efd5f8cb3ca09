from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle of three golden images, opened by nothing yet."""
    return write_tiny_bundle(tmp_path / "bundle")
