"""A graph whose network computes in half precision, with fp32 where it has to stay.

Everything that leads to ``pixel_values`` stays as it is, and so do the head, the temperature and
the softmax. In between a node is one of two kinds: it computes in half, or it is one of those kept
in fp32. A cast stands where the kind changes, as ``NAME/half`` or ``NAME/single``, once for a tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder, model_of
from export.graph.config import FUSED, GraphConfig
from export.graph.network import add_classifier, text_inputs
from export.graph.preprocessing import IMAGE, PIXEL_VALUES
from export.graph.subgraph import gives_floats, preprocessing_part
from export.graph.tensor_names import EMBEDDING, FUSION, LOGITS, PROBABILITIES, VALUE
from export.graph.text_inputs import INPUT_IDS
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import image_tower_of
from toolkit.runtime.precision import SPECS

HalfPrecision = Literal["fp16", "bf16"]
ELEMENT_TYPES = {name: int(getattr(TensorProto, spec.element.upper())) for name, spec in SPECS.items() if spec.half}
TORCH_TYPES = {name: getattr(torch, spec.element) for name, spec in SPECS.items() if spec.half}
HALF_MAX = float(np.finfo(np.float16).max)
"""The largest number of fp16: 65504."""
NO_BF16_KERNEL = frozenset({"Conv", "Pad"})
"""Operators of these graphs that ONNX Runtime's CUDA provider can't run in bf16.

Pad has no such kernel in any opset, Conv has one from opset 22 on, which is also where ONNX allows
it; the other operators have fp16 and bf16. The CPU provider has bf16 kernels for hardly any, so a
bf16 graph does not open there. Source: onnxruntime, docs/OperatorKernels.md, CUDAExecutionProvider.
"""
MOVING = frozenset({"Expand", "Gather", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"})
"""Operators that move values without changing them; they take the type of what they move."""


@dataclass(frozen=True)
class Plan:
    """Who computes in half."""

    floating: frozenset[str]
    """Tensors of the network, without constants, that hold floating-point numbers."""
    nodes: frozenset[str]
    """Names of the nodes that compute in half."""
    tensors: frozenset[str]
    """What these nodes give."""


def to_half(model: onnx.ModelProto, precision: HalfPrecision, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of a graph whose network computes in half precision; the same arguments give the same bytes.

    Inputs and outputs keep their types.

    Args:
        model: what :func:`export.graph.classifier_graph.build_graph` gave, with either input.
        precision: ``fp16`` or ``bf16``.
        keep_fp32: tensors that have to stay fp32, such as :func:`export.precision.overflow.overflowing` finds; so
            do the nodes that give or read one, and everything that merely moves its values.
    """
    who = plan(model, precision, keep_fp32)
    constants, in_half_names = _constants(model, precision, who)
    nodes: list[onnx.NodeProto] = []
    casts: set[str] = set()

    def read(name: str, *, half: bool) -> str:
        """The tensor's name in the kind that the reader needs."""
        if name in in_half_names:
            return in_half_names[name] if half else name
        if name not in who.floating or (name in who.tensors) == half:
            return name
        cast = f"{name}/{'half' if half else 'single'}"
        if cast not in casts:
            casts.add(cast)
            to = ELEMENT_TYPES[precision] if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=to))
        return cast

    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        compares = bool(who.floating & set(node.input)) and node.op_type != "Shape"
        if who.floating & set(node.output) or compares:
            half = node.name in who.nodes
            for place, name in enumerate(original.input):
                node.input[place] = read(name, half=half)
        nodes.append(node)
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output)
    converted = model_of(
        graph,
        constants,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    converted.metadata_props.extend(model.metadata_props)
    return converted


def plan(model: onnx.ModelProto, precision: HalfPrecision, keep_fp32: Collection[str] = ()) -> Plan:
    """Decide for every node of the network; see :func:`to_half` for the arguments."""
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    floating = {PIXEL_VALUES}
    network: list[onnx.NodeProto] = []
    reached = {PIXEL_VALUES, INPUT_IDS}
    for node in model.graph.node:
        if not reached & set(node.input):
            continue
        reached.update(filter(None, node.output))
        if gives_floats(node) and (floating | weights) & set(node.input):
            floating.update(filter(None, node.output))
            network.append(node)
    seeds = {*keep_fp32, *(_too_large(model) if precision == "fp16" else ())}
    kept = _with_same_values(seeds, network, floating)
    nodes: set[str] = set()
    tensors: set[str] = set()
    for node in network:
        moves_single = node.op_type in MOVING and node.input[0] not in weights | tensors
        no_kernel = precision == "bf16" and node.op_type in NO_BF16_KERNEL
        if moves_single or no_kernel or kept & {*node.input, *node.output} or in_head(node.output[0]):
            continue
        nodes.add(node.name)
        tensors.update(filter(None, node.output))
    return Plan(frozenset(floating), frozenset(nodes), frozenset(tensors))


def in_head(tensor: str) -> bool:
    """Whether a tensor comes after the embedding, or after those of image and text."""
    first = tensor.replace("/", ".").split(".")[0]
    return tensor.startswith(FUSION) or first in ("head", LOGITS, PROBABILITIES, EMBEDDING, VALUE)


def network_graph(
    classifier: Classifier, config: GraphConfig = FUSED, size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """The classifier in float32 without preprocessing and metadata.

    Args:
        classifier: in eval mode, on the CPU.
        config: in which operators.
        size: height and width of ``pixel_values``; without it the graph serves to look up names and to plan.
    """
    builder = GraphBuilder()
    add_classifier(builder, classifier, PIXEL_VALUES, config, size=size)
    pixel_values = helper.make_tensor_value_info(PIXEL_VALUES, TensorProto.FLOAT, ["batch", 3, "height", "width"])
    entries = [pixel_values] if image_tower_of(classifier.encoder) else []
    entries += text_inputs(classifier.encoder)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in classifier.task.decision.outputs
    ]
    graph = helper.make_graph(builder.nodes, "network", entries, outputs)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    names = list(builder.initializers)
    constants = (builder.initializers.pop(name) for name in names)
    return model_of(graph, constants, opset_imports=opsets, ir_version=IR_VERSION)


def _too_large(model: onnx.ModelProto) -> Iterator[str]:
    """Weights that fp16 can't hold."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size and np.abs(values).max() > HALF_MAX:
                yield tensor.name


def _with_same_values(keep_fp32: set[str], network: Sequence[onnx.NodeProto], floating: set[str]) -> set[str]:
    """Nodes kept in fp32, and the tensors that hold the same values or that feed an attention operator which is one.

    What overflows inside attention is known by the tensor that the operator gives; keys and values
    that nodes before it make would be infinite before they reach it.
    """
    kept, by_tensor = set(keep_fp32), {output: node for node in network for output in node.output if output}
    while True:
        before = len(kept)
        for node in network:
            if node.op_type in MOVING and kept & {node.input[0], *node.output}:
                kept |= {node.input[0], *node.output}
            elif node.op_type == "MultiHeadAttention" and node.output[0] in kept:
                kept.update(_up_to_products(node, by_tensor, floating))
        if len(kept) == before:
            return kept


def _up_to_products(
    attention: onnx.NodeProto, by_tensor: dict[str, onnx.NodeProto], floating: set[str]
) -> Iterator[str]:
    """Tensors between an attention operator and the matmuls that feed it."""
    open_ends = list(attention.input)
    while open_ends:
        tensor = open_ends.pop()
        if tensor in floating and tensor in by_tensor:
            yield tensor
            if by_tensor[tensor].op_type != "MatMul":
                open_ends += by_tensor[tensor].input


def _constants(
    model: onnx.ModelProto, precision: HalfPrecision, who: Plan
) -> tuple[list[onnx.TensorProto], dict[str, str]]:
    """All constants, those that half nodes read in half, and the names of the latter by their old ones."""
    takes_images = model.graph.input[0].name == IMAGE
    single = {tensor.name for tensor in preprocessing_part(model).graph.initializer} if takes_images else set()
    half: set[str] = set()
    for node in model.graph.node:
        (half if node.name in who.nodes else single).update(node.input)
    constants: list[onnx.TensorProto] = []
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        wanted = tensor.name in half and tensor.data_type == TensorProto.FLOAT
        if wanted:
            names[tensor.name] = f"{tensor.name}/half" if tensor.name in single else tensor.name
            constants.append(_rounded(tensor, names[tensor.name], precision))
        if not wanted or tensor.name in single:
            constants.append(tensor)
    return constants, names


def _rounded(tensor: onnx.TensorProto, name: str, precision: HalfPrecision) -> onnx.TensorProto:
    """A constant in half, rounded to nearest even."""
    values = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(TORCH_TYPES[precision])
    raw = values.view(torch.int16).numpy().tobytes()  # numpy has no bf16
    return helper.make_tensor(name, ELEMENT_TYPES[precision], tensor.dims, raw, raw=True)
