"""A feed as a classifier in PyTorch takes it."""

from __future__ import annotations

from typing import Any

import torch

from export.graph.preprocessing import PIXEL_VALUES
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import text_tower_of
from toolkit.runtime.inputs import Feed


def given(classifier: Classifier, feed: Feed, dtype: torch.dtype = torch.float32) -> Any:
    """``pixel_values`` in a precision; of a classifier that takes texts a dictionary of all inputs."""
    tensors = {
        name: torch.from_numpy(values).to(dtype if name == PIXEL_VALUES else None) for name, values in feed.items()
    }
    return tensors[PIXEL_VALUES] if text_tower_of(classifier.encoder) is None else tensors
