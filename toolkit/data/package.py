"""Where an installed package keeps the images that it carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from toolkit.errors import ToolkitError


def package_folder(module: str, *, distribution: str, verb: str) -> Path:
    """The folder of an installed package, which is not imported.

    Args:
        module: its name in Python.
        distribution: its name on the index.
        verb: that needs it.

    Raises:
        ToolkitError: the package isn't installed.
    """
    package = find_spec(module)
    if package is None or package.origin is None:
        fix = 'pip install "clip-toolkit[data]"'
        raise ToolkitError(f"{distribution} is not installed", where=verb, fix=fix)
    return Path(package.origin).parent
