"""What the Dockerfiles say, and what reaches a build of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import DOCKER, DOCKERFILES, ROOT, context, stages

PACKAGES = ("toolkit", "export", "recipes")
SERVE = DOCKER / "serve.Dockerfile"


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "hadolint"), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_there_are_a_training_and_a_serving_image() -> None:
    assert [path.name for path in DOCKERFILES] == ["serve.Dockerfile", "train.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    found = hadolint(path)
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_say_it(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(SERVE.read_text().replace("python:3.11-slim\nCOPY", "python:latest\nCOPY"))
    assert "DL3007" in hadolint(bad).stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_as_a_numbered_user_that_is_not_root(path: Path) -> None:
    uid, gid = map(int, stages(path)[-1].last("USER").value.split(":"))
    assert uid > 0
    assert gid > 0


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_no_stage_stands_on_a_cuda_image(path: Path) -> None:
    assert {stage.base for stage in stages(path)} == {"python:3.11-slim"}


def test_the_training_image_is_started_with_room_for_workers_and_reads_the_gpu() -> None:
    """Loader workers hand batches over in shared memory, of which a container has 64 MiB; NVML is an extra."""
    content = (DOCKER / "train.Dockerfile").read_text()
    (started,) = [line for line in content.splitlines() if line.startswith("#") and "docker run" in line]
    assert "--ipc host" in started
    assert "--gpus all" in started
    (extras,) = [line for line in content.splitlines() if "docker/requirements.py train" in line]
    assert " gpu " in extras


def test_the_serving_image_holds_neither_sources_nor_a_compiler() -> None:
    image = stages(SERVE)[-1]
    copied = [each.value for each in image.instructions if each.name == "COPY"]
    assert copied == ["--from=build /opt/toolkit /opt/toolkit"]
    assert not [each for each in image.instructions if each.name == "RUN"]


@pytest.fixture
def littered_checkout(tmp_path: Path) -> Path:
    """What git has or would take, and what work leaves in a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    for litter in (
        *(".git/config", ".venv/bin/python", ".env", "runs/digits/best/model.safetensors", "bundles/digits/model.onnx"),
        *("demo/run/recipe.yaml", "datasets/private/0.png", "toolkit/__pycache__/api.pyc", "build/lib/toolkit/api.py"),
        *("toolkit/serving/http/__pycache__/app.pyc", "clip_toolkit.egg-info/PKG-INFO", "server.key", "dist/a.whl"),
    ):
        (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / litter).write_text("not for an image")
    return tmp_path


def test_a_build_is_given_what_is_packaged_and_nothing_else(littered_checkout: Path) -> None:
    given = context(littered_checkout)
    above = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "docker/requirements.py"}
    packaged = {
        path.relative_to(littered_checkout).as_posix()
        for package in PACKAGES
        for path in (littered_checkout / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(given) == above | packaged
