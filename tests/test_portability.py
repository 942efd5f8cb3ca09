"""What only Linux has is not needed; ``make lint`` has mypy read the same code as on Windows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]


def test_from_training_to_predictions_without_the_modules_of_linux(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    """In one process, since each would import PyTorch for seconds."""
    recipe = make_recipe(training={"epochs": 1, "loader_workers": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    commands: list[list[str | Path]] = [
        ["train", tmp_path / "recipe.yaml", "--out", run],
        ["export", "--onnx", run, "--out", bundle],
        ["parity", bundle],
        ["bench-latency", bundle, "--runs", "2", "--seconds", "0", "--batch-sizes", "1", "--compare", ""],
        ["verify", bundle],
        ["predict", bundle, color_data / "test"],
        ["doctor"],
    ]
    words = [word for command in commands for word in ("then", *command)][1:]
    script = [sys.executable, "-P", "-X", "warn_default_encoding", ROOT / "tests" / "without_linux.py"]
    done = subprocess.run([*script, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "hidden: fcntl resource" in done.stderr
    assert f"ended well: {' '.join(str(command[0]) for command in commands)}\n" in done.stderr
