from __future__ import annotations

import pytest
from tiny_bundle import write_tiny_bundle

from toolkit.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle of three golden images."""
    return Bundle(write_tiny_bundle(tmp_path_factory.mktemp("scoring") / "bundle"))
