"""Parts of a shipped graph, and its inner tensors, for those who look inside it; never shipped themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import uses_external_data

from export.graph.builder import model_of
from export.graph.external_data import MAX_PROTOBUF_BYTES, save_graph
from export.graph.grey_levels import levels_of
from export.graph.preprocessing import IMAGE, PIXEL_VALUES, RESIZED
from export.graph.text_inputs import all_text_inputs
from toolkit.runtime.inputs import Feed
from toolkit.runtime.open_session import open_session
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
NO_FLOATS = frozenset(
    {
        "And",
        "ArgMax",
        "ArgMin",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
    }
    | {"Not", "Or", "Shape", "Size", "Xor"}
)
"""Operators that give truth values, or whole numbers, of what they take."""
LARGEST_IN_MEMORY = MAX_PROTOBUF_BYTES // 2
"""Bytes of weights that a part may have to be handed over in memory."""


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that gives each tensor."""
    return {output: node for node in model.graph.node for output in node.output if output}


def subgraph(model: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto], outputs: Iterable[str]) -> onnx.ModelProto:
    """What of a graph lies between some tensors and others.

    Args:
        model: the whole graph.
        inputs: where the part begins; tensors that are not needed are left out.
        outputs: float tensors that it gives.

    Returns:
        A model with the same nodes, names and constants.
    """
    names, given = list(dict.fromkeys(outputs)), {value.name for value in inputs}
    by_tensor = producers(model)
    needed, open_ends = set(), list(names)
    while open_ends:
        tensor = open_ends.pop()
        if tensor in needed:
            continue
        needed.add(tensor)
        if tensor not in given and tensor in by_tensor:
            open_ends += read_by(by_tensor[tensor])
    nodes = [node for node in model.graph.node if needed & set(node.output) and not given & set(node.output)]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    if any(tensor.data_type in HALF for tensor in constants):
        nodes = _with_single_outputs(nodes, names)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "part", [value for value in inputs if value.name in needed], values)
    return model_of(graph, constants, opset_imports=model.opset_import, ir_version=model.ir_version)


def _with_single_outputs(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> list[onnx.NodeProto]:
    """Copies of nodes, and casts behind them that give ``names`` in float32, whatever type they had."""
    inner = {name: f"{name}/inner" for name in names}
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for tensors in (copy.input, copy.output):
            for place, name in enumerate(tensors):
                tensors[place] = inner.get(name, name)
        copies.append(copy)
    for name, old in inner.items():
        copies.append(helper.make_node("Cast", [old], [name], to=TensorProto.FLOAT, name=f"{name}/output"))
    return copies


def preprocessing_part(model: onnx.ModelProto, outputs: Sequence[str] = (PIXEL_VALUES,)) -> onnx.ModelProto:
    """From ``image`` to ``pixel_values``, of a graph that takes images."""
    entry = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", "height", "width", 3])
    return subgraph(model, [entry], outputs)


def network_part(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """From ``pixel_values`` on, of any graph, or from grey levels on where the network takes those."""
    entries = [
        helper.make_tensor_value_info(PIXEL_VALUES, TensorProto.FLOAT, ["batch", 3, "height", "width"]),
        helper.make_tensor_value_info(RESIZED, TensorProto.FLOAT, ["batch", "height", "width", 3]),
        *all_text_inputs(),
    ]
    return subgraph(model, entries, outputs)


def takes_levels(model: onnx.ModelProto) -> bool:
    """Whether a graph's network takes the grey levels of its preprocessing in place of ``pixel_values``."""
    tensors = producers(model)
    return RESIZED in tensors and PIXEL_VALUES not in tensors


def network_input(model: onnx.ModelProto, preprocess: Preprocess, feed: Feed) -> Feed:
    """What :func:`network_part` takes, where the reference takes ``feed``."""
    if not takes_levels(model):
        return feed
    return {name: values for name, values in feed.items() if name != PIXEL_VALUES} | {
        RESIZED: levels_of(preprocess, feed[PIXEL_VALUES])
    }


def open_part(part: onnx.ModelProto, session: Session) -> Session:
    """Open a part of a graph as a session opens the whole; weights that stayed on disk are mapped from there."""
    if any(map(uses_external_data, part.graph.initializer)):
        folder, content = session.where.parent, part.SerializeToString()
        return open_session(content, provider=session.provider, threads=session.threads, external_data=folder)
    return open_model(part, provider=session.provider, threads=session.threads)


def open_model(model: onnx.ModelProto, *, provider: str, threads: int | None) -> Session:
    """Open a graph that lies on no disk."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < LARGEST_IN_MEMORY:
        return open_session(model.SerializeToString(), provider=provider, threads=threads)
    with TemporaryDirectory(prefix="clip-toolkit-") as folder:
        path = Path(folder) / "part.onnx"
        save_graph(model, path)
        return open_session(path, provider=provider, threads=threads)


def gives_floats(node: onnx.NodeProto) -> bool:
    """Whether what a node gives of floating-point numbers are floating-point numbers again."""
    to = next((attribute.i for attribute in node.attribute if node.op_type == "Cast" and attribute.name == "to"), None)
    return node.op_type not in NO_FLOATS and to in (None, TensorProto.FLOAT)


def read_by(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, those of its branches included."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                found += read_by(inner)
    return found
