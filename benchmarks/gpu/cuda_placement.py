"""Where ONNX Runtime puts nodes on CUDA, and which copies that takes, told from the graph alone.

The rules are those of ``GetCpuPreferredNodes`` (core/framework/fallback_cpu_capability.cc) and of the memcpy
transformer (core/optimizer/transformer_memcpy.cc): what is computed from shapes and short constants alone stays on the
host; a tensor that is needed elsewhere than it lies is copied, and a copy to the host waits for the device. They hold
for each graph by itself, a branch of an ``If`` too. Every operator of our graphs has a CUDA kernel.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

ON_HOST = {
    **dict.fromkeys(("Reshape", "Split", "Squeeze", "Unsqueeze", "Expand", "Pad", "Tile"), (1,)),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceL2"), (1,)),
    **{"Slice": (1, 2, 3, 4), "Range": (0, 1, 2), "If": (0,), "Clip": (1, 2)},
}
"""Inputs that a CUDA kernel takes in host memory (``InputMemoryType``)."""
GIVES_ON_HOST = {"Shape", "Size"}
SMALL = 100
"""Elements of a constant that is no reason to leave the host."""
HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@dataclass
class Placement:
    """Of a graph, its taken branches included."""

    host: Counter[str] = field(default_factory=Counter)
    """Operators that run on the CPU."""
    device: Counter[str] = field(default_factory=Counter)
    to_host: int = 0
    """Tensors that are copied from the device, each of which the host waits for."""
    to_device: int = 0
    unseen: int = 0
    """Copies that an ``If`` makes for its branch, of which no node tells."""


def placed(model: onnx.ModelProto, branch: str = "else_branch") -> Placement:
    """Place a model, after ONNX Runtime's own optimisation; of each ``If``, one branch runs."""
    optimized = optimize(model)
    found = Placement()
    constants = {tensor.name: int(np.prod(tensor.dims)) for tensor in optimized.graph.initializer}
    half = {tensor.name for tensor in optimized.graph.initializer if tensor.data_type in HALF}
    _place(optimized.graph, constants, half, {}, branch, found)
    return found


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """What is there when nodes are placed: constants are folded, nothing is fused for a provider."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _place(
    graph: onnx.GraphProto,
    constants: dict[str, int],
    half: set[str],
    outer: dict[str, bool],
    branch: str,
    found: Placement,
) -> None:
    """Place one graph; ``outer`` says of each tensor of the graphs around it whether it lies on the host."""
    constants = constants | {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    on_host = _preferred_on_host(graph, constants, half)
    given = {output: _gives_on_host(node, on_host) for node in graph.node for output in node.output if output}
    taken_on_host, taken_on_device = set(), set()
    for node in graph.node:
        host = node.name in on_host
        (found.host if host else found.device)[node.op_type] += 1
        for place, name in enumerate(node.input):
            if name and name not in constants:
                here = host or place in ON_HOST.get(node.op_type, ())
                (taken_on_host if here else taken_on_device).add(name)
    found.to_device += sum(host and name in taken_on_device for name, host in given.items())
    found.to_host += sum(not host and name in taken_on_host for name, host in given.items())
    for name in outer.keys() & (taken_on_host | taken_on_device):
        found.to_device += name in taken_on_host & taken_on_device
        found.unseen += outer[name] != (name not in taken_on_device)
    for node in graph.node:
        for inner in _branches(node, branch):
            _place(inner, constants, half, outer | given, branch, found)


def _gives_on_host(node: onnx.NodeProto, on_host: set[str]) -> bool:
    return node.name in on_host or node.op_type in GIVES_ON_HOST


def _preferred_on_host(graph: onnx.GraphProto, constants: dict[str, int], half: set[str]) -> set[str]:
    """Names of the nodes that run on the CPU since all they take lies there, and nothing says that it should not."""
    inputs = {value.name for value in graph.input}
    lies_on_host = {output for node in graph.node if node.op_type in GIVES_ON_HOST for output in node.output}
    chosen: set[str] = set()
    for node in graph.node:  # which stand in topological order
        if not lies_on_host & set(node.input):
            continue
        if all(_may_stay(node, place, name, constants, half, inputs, lies_on_host) for place, name in _read(node)):
            chosen.add(node.name)
            lies_on_host.update(filter(None, node.output))
    return chosen


def _may_stay(
    node: onnx.NodeProto,
    place: int,
    name: str,
    constants: dict[str, int],
    half: set[str],
    inputs: set[str],
    lies_on_host: set[str],
) -> bool:
    if name in half:
        return False
    if constants.get(name, SMALL + 1) <= SMALL or name in inputs:
        return True
    return name in lies_on_host and place not in ON_HOST.get(node.op_type, ())


def _read(node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
    return ((place, name) for place, name in enumerate(node.input) if name)


def _branches(node: onnx.NodeProto, branch: str) -> Sequence[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.name == branch]
