"""What a graph takes beside its image, or without one: tokens of a text, and which images are there."""

# B batch, T tokens

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

INPUT_IDS, ATTENTION_MASK, IMAGE_MASK = "input_ids", "attention_mask", "image_mask"
"""Beside an image: int64 [B, T] the first two; [B] the last, 0 where an image is missing."""


def all_text_inputs() -> list[onnx.ValueInfoProto]:
    """What graphs take for texts, and for images that may be missing."""
    texts = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in (INPUT_IDS, ATTENTION_MASK)
    ]
    return [*texts, helper.make_tensor_value_info(IMAGE_MASK, TensorProto.INT64, ["batch"])]
