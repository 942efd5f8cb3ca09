"""What a graph has to do for a batch: its matmuls and the bytes that have to move, counted, not measured.

Shapes and types are those that ONNX Runtime infers for the graph itself, its own operators included, when the
input's shape is known; nothing is run and no weight is read.
"""

# m, k, n: of a matmul [m, k] x [k, n]; B batch, T tokens of keys and values, Q tokens of queries, D width

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from export.graph.builder import MICROSOFT
from export.graph.preprocessing import RESIZED
from export.graph.subgraph import network_part, producers
from toolkit.errors import ToolkitError

BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "bool": 1} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
"""Of a matmul, by the element type of what it multiplies."""
SMALL = 64
"""Elements of a constant whose values may decide a shape; larger ones are known by their shapes alone."""
OUTPUTS = ("logits", "probabilities", "value")


@dataclass(frozen=True)
class Matmul:
    """Matmuls [m, k] x [k, n] that one operator does together."""

    m: int
    k: int
    n: int
    precision: str
    """``fp32``, ``fp16``, ``bf16`` or ``int8``: what the operator multiplies."""
    together: int = 1
    constant: bool = True
    """Whether the second matrix is a weight; attention multiplies activations with activations."""

    @property
    def operations(self) -> int:
        """Multiplications and additions, each counted."""
        return 2 * self.together * self.m * self.k * self.n


@dataclass(frozen=True)
class Work:
    """What a network has to do for one batch, from ``pixel_values`` to ``logits`` and ``probabilities``."""

    batch_size: int
    matmuls: tuple[Matmul, ...]
    """In the graph's order, an entry an operator."""
    weight_bytes: int
    """All constants, each once."""
    input_bytes: int
    output_bytes: int
    activation_bytes: int
    """What all nodes read and write besides constants: each tensor once where it is made and once a reader."""

    @property
    def operations(self) -> int:
        """Of all matmuls, a multiply-add being two; norms, activations and sums are not counted."""
        return sum(matmul.operations for matmul in self.matmuls)

    @property
    def gflop(self) -> float:
        """Operations in 10^9."""
        return self.operations / 1e9

    @property
    def least_bytes(self) -> int:
        """What has to move at least: weights, input and outputs, each once."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def shapes(self) -> dict[tuple[int, int, int], int]:
        """How many matmuls of each (m, k, n) there are."""
        counts: Counter[tuple[int, int, int]] = Counter()
        for matmul in self.matmuls:
            counts[matmul.m, matmul.k, matmul.n] += matmul.together
        return dict(counts)

    def describe(self) -> dict[str, Any]:
        """For ``latency.json``."""
        ranked = sorted(Counter(self.matmuls).items(), key=lambda pair: -pair[0].operations * pair[1])
        return {
            "batch_size": self.batch_size,
            "gflop": self.gflop,
            "mib": self.least_bytes / 2**20,
            "weights_mib": self.weight_bytes / 2**20,
            "activations_mib": self.activation_bytes / 2**20,
            "products": [
                {
                    "m_k_n": [each.m, each.k, each.n],
                    "precision": each.precision,
                    "count": each.together * count,
                    "share": count * each.operations / self.operations,
                }
                for each, count in ranked
            ],
        }


@dataclass(frozen=True)
class Value:
    """A tensor of a graph: its shape and element type."""

    shape: tuple[int, ...]
    element: str

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * BYTES[self.element]


def count_work(model: onnx.ModelProto, input_shape: Sequence[int], floats: str = "fp32") -> Work:
    """Count the network's work for a batch; of a graph that takes ``image``, from ``pixel_values`` on.

    Args:
        model: what ``toolkit export`` wrote, in any precision, with its weights or without.
        input_shape: of ``pixel_values``, [batch, 3, height, width].
        floats: precision in which matmuls of float32 are computed; see
            :func:`toolkit.runtime.openvino_library.floats_of`.

    Raises:
        ToolkitError: an operator that multiplies matrices and that is not known here, or a shape that depends
            on more than the input's.
    """
    outputs = [each.name for each in model.graph.output if each.name in OUTPUTS]
    part = network_part(model, outputs)
    own = {node.name for node in model.graph.node}
    nodes = [node for node in part.graph.node if node.name in own]
    (entry,) = part.graph.input
    batch, channels, height, width = input_shape
    shape = [batch, height, width, channels] if entry.name == RESIZED else list(input_shape)
    values = inferred(part, shape)
    constants = {tensor.name for tensor in part.graph.initializer}
    makers = producers(part)
    matmuls = [matmul for node in nodes for matmul in matmuls_of(node, values, constants, makers)]
    matmuls = [replace(each, precision=floats) if each.precision == "fp32" else each for each in matmuls]
    activations = [
        values[name].nbytes for node in nodes for name in [*node.input, *node.output] if name and name not in constants
    ]
    return Work(
        batch,
        tuple(matmuls),
        weight_bytes=sum(values[name].nbytes for name in constants),
        input_bytes=values[entry.name].nbytes,
        output_bytes=sum(values[name].nbytes for name in outputs),
        activation_bytes=sum(activations),
    )


def inferred(model: onnx.ModelProto, input_shape: Sequence[int]) -> dict[str, Value]:
    """Every tensor of a graph with one input, as ONNX Runtime infers it for a shape of that input.

    ONNX Runtime has no bf16 on CPUs, so such a graph is looked at in fp16, which has the same shapes.

    Raises:
        ToolkitError: a shape that is not known before the graph runs.
    """
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        found = inferred(_in_fp16(model), input_shape)
        return {
            name: replace(value, element="bfloat16") if value.element == "float16" else value
            for name, value in found.items()
        }
    (entry,) = model.graph.input
    fixed = helper.make_tensor_value_info(entry.name, entry.type.tensor_type.elem_type, input_shape)
    small = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= SMALL]
    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > SMALL]
    inputs = [fixed, *(helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in large)]
    names = [name for node in model.graph.node for name in node.output if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph(model.graph.node, "shapes", inputs, outputs, small)
    shapes = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    # folds shapes that the graph computes from others; nothing else changes, since every tensor is an output
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(shapes.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = {each.name: Value(tuple(each.dims), _element(each.data_type)) for each in small}
    for value in [*session.get_inputs(), *session.get_outputs()]:
        if not all(isinstance(side, int) for side in value.shape):
            what = f"the shape of a tensor depends on more than the input's: {value.shape}"
            raise ToolkitError(what, where=value.name, fix="count a graph that toolkit export wrote")
        values[value.name] = Value(tuple(value.shape), value.type.removeprefix("tensor(").removesuffix(")"))
    return values


def _in_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph's nodes and the shapes of its constants with fp16 in the place of bf16; what they hold gets lost."""
    bf16, fp16 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16
    changed = onnx.ModelProto()
    changed.opset_import.extend(model.opset_import)
    changed.ir_version = model.ir_version
    changed.graph.node.extend(model.graph.node)
    changed.graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        same = changed.graph.initializer.add()
        if tensor.data_type != bf16:
            same.CopyFrom(tensor)
            continue
        size = math.prod(tensor.dims)
        held = bytes(2 * size) if size <= SMALL else b""  # of larger ones nobody asks more than the shape
        same.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=fp16, dims=tensor.dims, raw_data=held))
    for node in changed.graph.node:
        for attribute in node.attribute:
            if attribute.i == bf16 and attribute.name in ("to", "dtype", "output_dtype"):
                attribute.i = fp16
            elif attribute.i == bf16 and attribute.name == "stash_type":
                attribute.i = onnx.TensorProto.FLOAT
    return changed


def _element(data_type: int) -> str:
    return "float" if data_type == onnx.TensorProto.FLOAT else np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).name


Values = dict[str, Value]


def matmuls_of(
    node: onnx.NodeProto, values: Values, constants: set[str], makers: dict[str, onnx.NodeProto]
) -> list[Matmul]:
    """The matmuls that a node does.

    Raises:
        ToolkitError: it multiplies matrices in a way that is not known here.
    """
    kind = (node.domain, node.op_type)
    if kind in FACTORS:
        first, second = (node.input[place] for place in FACTORS[kind])
        return [_product(values, first, second, constants, makers)]
    if kind in COUNTED:
        return COUNTED[kind](node, [values.get(name) for name in node.input], values[node.output[0]])
    harmless = node.domain in ("", MICROSOFT) and not any(word in node.op_type for word in MULTIPLYING)
    if harmless and not any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
        return []
    what = f"the operations of {node.domain or 'onnx'}.{node.op_type} are not known"
    raise ToolkitError(what, where=node.name, fix="count a graph that toolkit export wrote")


def _product(values: Values, first: str, second: str, constants: set[str], makers: dict[str, onnx.NodeProto]) -> Matmul:
    """[..., m, k] x [..., k, n]; a plain second matrix takes all rows of the first at once."""
    *lead, m, k = values[first].shape
    *others, _, n = values[second].shape
    maker = makers.get(second)
    dequantized = maker is not None and maker.op_type == "DequantizeLinear"
    rounded = maker.input[0] if maker is not None and dequantized else second
    precision = PRECISIONS[values[rounded].element]
    constant = rounded in constants
    if not others:
        return Matmul(math.prod(lead) * m, k, n, precision, constant=constant)
    together = math.prod(np.broadcast_shapes(tuple(lead), tuple(others)))
    return Matmul(m, k, n, precision, together, constant)


def _gemm(node: onnx.NodeProto, inputs: Sequence[Any], output: Value) -> list[Matmul]:
    first, (m, n) = inputs[0], output.shape
    k = first.shape[0 if _attribute(node, "transA", 0) else 1]
    return [Matmul(m, k, n, PRECISIONS[first.element])]


def _convolution(node: onnx.NodeProto, inputs: Sequence[Any], output: Value) -> list[Matmul]:
    """As the matmul of the windows' rows with the kernels' matrix, of each group."""
    kernels, groups = inputs[1], _attribute(node, "group", 1)
    batch, channels, *sides = output.shape
    rows, k = batch * math.prod(sides), math.prod(kernels.shape[1:])
    return [Matmul(rows, k, channels // groups, PRECISIONS[kernels.element])] * groups


def _attention(node: onnx.NodeProto, inputs: Sequence[Any], output: Value) -> list[Matmul]:
    """Query, key and value of all heads by one matmul, then as :func:`_scores_and_mix`."""
    x, weight = inputs[0], inputs[1]
    batch, tokens, width = x.shape
    precision, heads = PRECISIONS[x.element], _attribute(node, "num_heads", 0)
    three = weight.shape[1]
    query, _, value = _attribute(node, "qkv_hidden_sizes", [three // 3] * 3)
    projection = Matmul(batch * tokens, width, three, precision)
    return [projection, *_scores_and_mix(batch, heads, (tokens, tokens), (query, value), precision)]


def _cross_attention(node: onnx.NodeProto, inputs: Sequence[Any], output: Value) -> list[Matmul]:
    """Ready queries [B, Q, D], keys and values [B, T, D]."""
    query, key, value = inputs[:3]
    if not key or not value or any(len(each.shape) != 3 for each in (query, key, value)) or len(inputs) > 6:
        raise ToolkitError("packed or cached attention is not counted", where=node.name, fix="export the graph again")
    batch, queries, width = query.shape
    tokens = (queries, key.shape[1])
    heads = _attribute(node, "num_heads", 0)
    return _scores_and_mix(batch, heads, tokens, (width, value.shape[2]), PRECISIONS[query.element])


def _scores_and_mix(
    batch: int, heads: int, tokens: tuple[int, int], widths: tuple[int, int], precision: str
) -> list[Matmul]:
    """Queries times keys, then softmax times values, of every head and image."""
    (queries, keys), (width, value_width) = tokens, widths
    several = partial(Matmul, precision=precision, together=batch * heads, constant=False)
    return [several(queries, width // heads, keys), several(queries, keys, value_width // heads)]


def _matmul_n_bits(node: onnx.NodeProto, inputs: Sequence[Any], output: Value) -> list[Matmul]:
    """Weights of few bits, which are multiplied in the activations' precision."""
    x = inputs[0]
    rows = math.prod(x.shape[:-1])
    return [Matmul(rows, _attribute(node, "K", 0), _attribute(node, "N", 0), PRECISIONS[x.element])]


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return otherwise


FACTORS = {
    ("", "MatMul"): (0, 1),
    ("", "MatMulInteger"): (0, 1),
    ("", "QLinearMatMul"): (0, 3),
    (MICROSOFT, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT, "DynamicQuantizeMatMul"): (0, 1),
}
"""Operators that multiply two of their inputs, and which."""
COUNTED: dict[tuple[str, str], Callable[[onnx.NodeProto, Sequence[Any], Value], list[Matmul]]] = {
    ("", "Gemm"): _gemm,
    ("", "Conv"): _convolution,
    (MICROSOFT, "Attention"): _attention,
    (MICROSOFT, "MultiHeadAttention"): _cross_attention,
    (MICROSOFT, "MatMulNBits"): _matmul_n_bits,
}
MULTIPLYING = ("MatMul", "Gemm", "Conv", "Attention", "Einsum", "LSTM", "GRU", "RNN", "MoE")
"""In the names of operators that multiply matrices."""
