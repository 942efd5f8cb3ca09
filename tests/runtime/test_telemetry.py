"""ONNX Runtime's telemetry writes nothing on a user's machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = "from toolkit.runtime.session import loadable_providers; loadable_providers()"


@pytest.mark.parametrize(
    "first",
    ["import toolkit", pytest.param("import export.bundle", marks=pytest.mark.slow), "import toolkit.serving.pool"],
)
def test_nothing_is_written_at_home(first: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", f"{first}; {SESSION}"], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
