"""docker/requirements.py says what pyproject.toml says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from dockerfile import DOCKER, DOCKERFILES, ROOT, read
from packaging.requirements import Requirement

SCRIPT = DOCKER / "requirements.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILDS = {"onnxruntime", "onnxruntime-gpu"}
CONSTRAINTS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def requirements(*arguments: str) -> list[Requirement]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Requirement(line) for line in done.stdout.splitlines()]


def of_the_project(*extras: str) -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    return [
        Requirement(line) for line in PROJECT["dependencies"] + [each for name in extras for each in optional[name]]
    ]


def test_without_a_device_they_are_the_projects() -> None:
    assert requirements("train", "data", "gpu") == of_the_project("train", "data", "gpu")


@pytest.mark.parametrize(
    ("device", "package", "extras"), [("cpu", "onnxruntime", set()), ("cuda", "onnxruntime-gpu", {"cuda", "cudnn"})]
)
def test_a_device_changes_the_build_of_onnx_runtime_alone(device: str, package: str, extras: set[str]) -> None:
    found, wanted = requirements("serve", "--device", device), of_the_project("serve")
    (build,) = [each for each in found if each.name in BUILDS]
    (stated,) = [each for each in wanted if each.name == package]
    assert (build.name, build.specifier, build.extras, build.marker) == (package, stated.specifier, extras, None)
    assert [each for each in found if each.name not in BUILDS] == [each for each in wanted if each.name not in BUILDS]


def test_both_builds_of_onnx_runtime_are_of_one_version() -> None:
    assert CONSTRAINTS["onnxruntime"] == CONSTRAINTS["onnxruntime-gpu"]


def test_an_unknown_extra_is_said() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "sevre"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pyproject.toml has no extra sevre" in done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_states_no_version_of_a_package(path: object) -> None:
    lines = [each.value for each in read(path) if each.name == "RUN" and "pip" in each.value]  # type: ignore[arg-type]
    assert lines
    assert not [line for line in lines if re.search(r"[\w\]][=<>~]=\s*\d", line)]


def test_the_script_can_be_imported_without_a_side_effect() -> None:
    spec = spec_from_file_location("requirements_of_images", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(KeyError):
        module.requirements(PROJECT, [], "tpu")
