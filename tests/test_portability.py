"""What only Linux has is not needed; ``make lint`` has mypy read the same code as on Windows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def toolkit() -> Callable[..., str]:
    """Run a command of the toolkit without the modules of Linux; gives its stderr."""

    def run(*arguments: str | Path) -> str:
        command = [sys.executable, "-P", "-X", "warn_default_encoding", ROOT / "tests" / "without_linux.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_from_training_to_predictions_without_the_modules_of_linux(
    toolkit: Callable[..., str], make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(training={"epochs": 1, "loader_workers": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert "hidden: fcntl resource" in toolkit("train", tmp_path / "recipe.yaml", "--out", run)
    toolkit("export", "--onnx", run, "--out", bundle)
    toolkit("parity", bundle)
    toolkit("bench-latency", bundle, "--runs", "2", "--seconds", "0", "--batch-sizes", "1", "--compare", "")
    toolkit("verify", bundle)
    toolkit("predict", bundle, color_data / "test")
    toolkit("doctor")
