"""Code that lies in a checkpoint never runs, whatever is answered on the terminal."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kinds
import pytest

ROOT = Path(__file__).parents[2]
ANSWERS = "y\n" * 20
CALLS = frozenset({"from_pretrained", "from_config"})
AUTO = (
    *("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor", "AutoProcessor"),
    *("AutoFeatureExtractor", "AutoTokenizer"),
)
FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


def hostile(encoder: Path, folder: Path, module: str, proof: Path) -> Path:
    """A copy of an encoder each of whose files says that its class is in ``module``, which writes a file."""
    kinds.copy_of(encoder, folder, None)
    code = dict.fromkeys(AUTO, f"{module}.Anything")
    for name in FILES:
        path = folder / name
        if not path.is_file():
            path.write_text("{}")
        kinds.set_json(path, auto_map=code)
    (folder / "processor_config.json").unlink()  # it would be read in place of preprocessor_config.json
    (folder / f"{module}.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Anything: pass\n")
    return folder


@pytest.mark.parametrize(
    ("verb", "model_type"),
    [
        ("train", None),
        ("explain", "my_own"),
        pytest.param("train", "my_own", marks=pytest.mark.slow),
        pytest.param("explain", None, marks=pytest.mark.slow),
    ],
)
def test_a_y_on_standard_input_runs_no_code(
    verb: str,
    model_type: str | None,
    encoders: dict[str, Path],
    color_data: Path,
    in_process: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Training is a process of its own; what explains a recipe runs in this one."""
    folder = hostile(encoders["clip"], tmp_path / "encoder", "modeling_evil", tmp_path / "ran")
    if model_type:
        kinds.set_json(folder / "config.json", model_type=model_type)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{path: {color_data}}}\nmodel: {{encoder: {folder}, unfreeze_last: 0}}\n"
        "training: {epochs: 1, batch_size: 8}\ntracking: {trackers: [], plots: false}\n"
    )
    if verb == "train":
        command = [sys.executable, "-m", "toolkit", "train", recipe, "--out", tmp_path / "run"]
        done = subprocess.run(command, input=ANSWERS, capture_output=True, text=True, check=False, cwd=ROOT)
    else:
        monkeypatch.setattr(sys, "stdin", io.StringIO(ANSWERS))
        done = in_process("recipes", "explain", recipe)
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in done.stdout + done.stderr
    if model_type is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert "no support for encoders of type 'my_own'" in done.stderr


def test_the_bait_is_one_that_transformers_takes(encoders: dict[str, Path], tmp_path: Path) -> None:
    """With remote code allowed, the same folder runs its module: the test above would see it."""
    folder = hostile(encoders["clip"], tmp_path / "encoder", "modeling_bait", tmp_path / "ran")
    kinds.set_json(folder / "config.json", model_type="my_own")
    script = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(folder)!r}, trust_remote_code=True)"
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": ""}
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=environment)
    assert (tmp_path / "ran").exists()


def test_every_call_that_loads_says_that_no_code_is_trusted() -> None:
    found = []
    for package in ("toolkit", "export", "recipes", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in CALLS:
                    trusted = [each.value for each in node.keywords if each.arg == "trust_remote_code"]
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", trusted))
    assert len(found) > 4
    assert [place for place, trusted in found if [getattr(each, "value", None) for each in trusted] != [False]] == []
