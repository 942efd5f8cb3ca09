"""What a model is called: by Triton, which takes a folder's name, and by Kubernetes."""

from __future__ import annotations

import re

from toolkit.errors import ToolkitError

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Triton refuses white space alone, ``..`` and slashes, and looks for a name in a URL as it stands, undecoded."""
LONGEST_SERVICE = 46
"""KServe adds ``-predictor`` and we ``-triton``; a label of Kubernetes has 63 characters."""


def require_model_name(name: str) -> None:
    """Raise :class:`ToolkitError` unless a bundle's folder has a name that Triton and its clients take."""
    if not MODEL_NAME.fullmatch(name):
        what = f"Triton's clients can't ask for a model called {name!r}"
        fix = "name the bundle's folder with up to 63 letters, digits, '.', '_' and '-', a letter or digit first"
        raise ToolkitError(what, where="the bundle's folder", fix=fix)


def service_name(name: str) -> str:
    """A model's name as KServe takes it: lower case, ``[a-z]([-a-z0-9]*[a-z0-9])?``, cut where it is too long."""
    plain = re.sub("[^a-z0-9-]", "-", name.lower()).strip("-")
    return (plain if plain[0].isalpha() else f"model-{plain}")[:LONGEST_SERVICE].rstrip("-")
