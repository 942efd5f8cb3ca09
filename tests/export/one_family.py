"""A mark for tests whose subject is the same in every encoder."""

from __future__ import annotations

import pytest

one_family = pytest.mark.parametrize(
    "finished_run", ["clip", pytest.param("siglip", marks=pytest.mark.slow)], indirect=True
)
"""CLIP by default; SigLIP too with ``--slow``."""
