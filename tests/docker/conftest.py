"""Images that stand in folders, built once a session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from built_image import Image, any_python, build
from dockerfile import DOCKER

UNREACHABLE = ("NewConnectionError", "Failed to establish a new connection", "Temporary failure in name resolution")


@pytest.fixture(scope="session")
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="clip-toolkit-images-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def build_image(public_folder: Path) -> Callable[..., Image]:
    """Builds an image by its Dockerfile's name and the build's arguments."""

    def make(name: str, **arguments: str) -> Image:
        python = any_python()
        if python is None:
            pytest.skip("no Python from 3.11 on that every user can run")
        root = public_folder / "-".join([name, *arguments.values()])
        try:
            return build(DOCKER / f"{name}.Dockerfile", root, python, arguments)
        except RuntimeError as error:
            if any(sign in str(error) for sign in UNREACHABLE):
                pytest.skip("the package index can't be reached")
            raise

    return make


@pytest.fixture(scope="session")
def serve_image(build_image: Callable[..., Image]) -> Image:
    """The serving image for CPUs."""
    return build_image("serve", DEVICE="cpu")
