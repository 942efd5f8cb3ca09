"""Where this machine keeps what can be made again: TensorRT's engines, what inspecting data showed."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "CLIP_TOOLKIT_CACHE"
"""Variable of the environment that names another folder than the user's cache."""


def cache_folder(what: str) -> Path:
    """The folder of one kind of thing; it need not be there."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).absolute() / what
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "clip-toolkit" / what
