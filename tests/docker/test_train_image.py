"""What train.Dockerfile's lines install, and that it trains, exports and compiles, as another user."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from built_image import Image
from dockerfile import ROOT

COMPILES = """
import torch
compiled = torch.compile(lambda x: torch.sin(x) + 1)
x = torch.linspace(0, 1, 100)
assert torch.allclose(compiled(x), torch.sin(x) + 1)
"""


@pytest.fixture(scope="module")
def train_image(build_image: Callable[..., Image]) -> Image:
    return build_image("train")


@pytest.mark.slow
def test_root_has_nothing_to_do_but_install_a_compiler_and_make_a_user(train_image: Image) -> None:
    assert [line.split()[0] for line in train_image.left_to_root] == ["apt-get", "useradd"]
    assert "install --yes --no-install-recommends g++" in train_image.left_to_root[0]


@pytest.mark.slow
def test_the_default_command_finds_training(train_image: Image) -> None:
    done = train_image.run(*train_image.stage.last("CMD").words)
    assert done.returncode == 0, done.stderr
    assert "fine-tuning and export need torch" not in done.stdout


@pytest.mark.slow
def test_it_fine_tunes_and_exports(train_image: Image, color_data: Path, public_folder: Path) -> None:
    work = public_folder / "training"
    shutil.copytree(color_data, work / "colors")
    work.chmod(0o777)
    launch = ["accelerate", "launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    shutil.copyfile(ROOT / "recipes/configs/digits.yaml", work / "recipe.yaml")
    recipe = ["-m", "recipes.finetune", "--config", str(work / "recipe.yaml"), "--out", str(work / "run")]
    trained = train_image.run(*launch, *recipe, f"data.path={work / 'colors'}", "training.epochs=1")
    assert trained.returncode == 0, trained.stderr
    exported = train_image.run("toolkit", "export", "--onnx", str(work / "run"), "--out", str(work / "bundle"))
    assert exported.returncode == 0, exported.stderr


@pytest.mark.slow
def test_it_compiles(train_image: Image) -> None:
    if shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("no compiler here, which the image's first line installs")
    done = train_image.run("python", "-c", COMPILES)
    assert done.returncode == 0, done.stderr
