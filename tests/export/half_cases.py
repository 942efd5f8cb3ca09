"""Classifiers for half precision: small ones of both families, and overflows planted in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export.graph.preprocessing import PIXEL_VALUES
from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.runtime.preprocess import Preprocess

LAYER = {
    "clip": "encoder.model.vision_model.encoder.layers.1",
    "siglip": "encoder.model.encoder.layers.1",
}
"""The layer that overflows are planted in."""
SCALE = 2.0**20


def made(folder: Path, head: str = "mlp") -> tuple[Classifier, Preprocess]:
    model_config = ModelConfig(encoder=str(folder), unfreeze_last=1, head=HeadConfig(type=head))  # type: ignore[arg-type]
    classifier, processor = build_classifier(model_config, ["a", "b", "c"], seed=0)
    classifier.temperature.fill_(1.7)
    return classifier.eval(), preprocess_from(processor)


def pixels(seed: int = 0, images: int = 5) -> torch.Tensor:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def scale_hidden_layer(classifier: Classifier, family: str) -> None:
    """An MLP block's hidden layer leaves fp16's range; the block's result stays moderate."""
    mlp: Any = classifier.get_submodule(f"{LAYER[family]}.mlp")
    for parameter in mlp.fc1.parameters():
        parameter.mul_(SCALE)
    mlp.fc2.weight /= SCALE


@torch.no_grad()
def scale_scores(classifier: Classifier, family: str) -> None:
    """The scores of a layer's attention leave fp16's range, queries and keys don't."""
    attention: Any = classifier.get_submodule(f"{LAYER[family]}.self_attn")
    for module in (attention.q_proj, attention.k_proj):
        for parameter in module.parameters():
            parameter.mul_(2.0**12)


@torch.no_grad()
def scale_values(classifier: Classifier, name: str) -> None:
    """The values of an attention leave fp16's range; what its last matmul gives stays moderate."""
    attention: Any = classifier.get_submodule(name)
    if isinstance(attention, torch.nn.MultiheadAttention):
        attention.in_proj_weight[-attention.embed_dim :] *= SCALE
        attention.in_proj_bias[-attention.embed_dim :] *= SCALE
    else:
        for parameter in attention.v_proj.parameters():
            parameter.mul_(SCALE)
    attention.out_proj.weight /= SCALE


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors from ``pixel_values`` on; raises where a node reads floats of two types."""
    known = {tensor.name: tensor.data_type for tensor in model.graph.initializer} | {PIXEL_VALUES: TensorProto.FLOAT}
    reached = {PIXEL_VALUES}
    for node in model.graph.node:
        if not reached & set(node.input):
            continue
        reached.update(filter(None, node.output))
        read = {known[name] for name in node.input if name} - {TensorProto.INT64}
        assert len(read) <= 1, node.name
        given = read.pop() if read and node.op_type != "Shape" else TensorProto.INT64
        if node.op_type == "Cast":
            (given,) = (attribute.i for attribute in node.attribute if attribute.name == "to")
        known |= dict.fromkeys(filter(None, node.output), given)
    return known


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights as they are, computed in fp32: without kernels for another type."""
    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type in half:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in copy.graph.node:
        if node.op_type == "Cast" and any(attribute.i in half for attribute in node.attribute):
            node.CopyFrom(helper.make_node("Identity", node.input, node.output, name=node.name))
    return copy
