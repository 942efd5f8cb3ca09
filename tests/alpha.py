"""Which transformers the toolkit's reading of transparency can be held against."""

from __future__ import annotations

import inspect

import pytest
from transformers.image_transforms import convert_to_rgb

composites_alpha = pytest.mark.skipif(
    "return_numpy" not in inspect.signature(convert_to_rgb).parameters,
    reason="this transformers drops transparency, where newer ones and the toolkit put white behind it",
)
