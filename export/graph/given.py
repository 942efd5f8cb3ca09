"""A feed as a classifier in PyTorch takes it."""

from __future__ import annotations

from typing import Any

import torch

from export.graph.preprocessing import PIXEL_VALUES
from toolkit.models.classifier import Classifier
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.runtime.inputs import Feed


def given(classifier: Classifier, feed: Feed, dtype: torch.dtype = torch.float32) -> Any:
    """``pixel_values`` in a precision; of a classifier of several inputs a dictionary of all."""
    pixel_values = torch.from_numpy(feed[PIXEL_VALUES]).to(dtype)
    if not isinstance(classifier.encoder, MultimodalEncoder):
        return pixel_values
    return {name: torch.from_numpy(values) for name, values in feed.items()} | {PIXEL_VALUES: pixel_values}
