"""Print what an image installs beside the toolkit: pyproject.toml's dependencies and those of some extras.

The base dependency on Linux x86-64 is onnxruntime-gpu, which runs on CPUs too but is ten times as large as onnxruntime;
``--device`` chooses between the two. Versions stay pyproject.toml's, and constraints.txt's where pip is given it.

    python docker/requirements.py serve --device cpu > requirements.txt
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUILDS = {"cpu": ("onnxruntime", "onnxruntime"), "cuda": ("onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]")}
"""By device, ONNX Runtime's package, and how it is asked for: with CUDA's libraries as wheels, not of a base image."""


def requirements(project: dict[str, Any], extras: Sequence[str], device: str | None = None) -> list[str]:
    """Requirements of a project and some of its extras.

    Args:
        project: the table ``[project]`` of pyproject.toml.
        extras: names of extras.
        device: ``cpu`` or ``cuda``; None leaves ONNX Runtime's build to the markers.

    Raises:
        KeyError: there is no such extra or device.
    """
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    if device is None:
        return wanted
    package, asked = BUILDS[device]
    builds = [line for line in wanted if _name(line) in {package for package, _ in BUILDS.values()}]
    versions = next(line for line in builds if _name(line) == package).removeprefix(package).partition(";")[0]
    return [line for line in wanted if line not in builds] + [asked + versions.strip()]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def main() -> None:
    """Read pyproject.toml in the current folder and print a requirement a line."""
    parser = argparse.ArgumentParser(description="Print what an image installs beside the toolkit.")
    parser.add_argument("extras", nargs="*", help="extras of pyproject.toml")
    parser.add_argument("--device", choices=sorted(BUILDS), help="ONNX Runtime's build; as the markers say by default")
    asked = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    unknown = set(asked.extras) - set(project["optional-dependencies"])
    if unknown:
        parser.error(f"pyproject.toml has no extra {', '.join(sorted(unknown))}")
    sys.stdout.write("\n".join(requirements(project, asked.extras, asked.device)) + "\n")


if __name__ == "__main__":
    main()
