"""Write an ONNX graph node by node, under names that say which module of the classifier a tensor comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
OPSET, IR_VERSION = 20, 9
"""The oldest that have every operator used here: GELU came with opset 20."""
MICROSOFT = "com.microsoft"
"""ONNX Runtime's own operators; every build of it has them, no library is loaded for them."""


class GraphBuilder:
    """Nodes and constants of a graph under construction; a tensor is known by its name."""

    def __init__(self, enclosing: GraphBuilder | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = enclosing.initializers if enclosing else {}
        self._taken: set[str] = enclosing._taken if enclosing else set()

    @property
    def tensors(self) -> set[str]:
        """Names of all tensors that nodes give so far."""
        return {name for node in self.nodes for name in node.output if name}

    def constant(self, value: Any, dtype: npt.DTypeLike | None = None, *, name: str = "") -> str:
        """A constant tensor; equal small ones are stored once.

        Args:
            value: numbers, an array, or a parameter of the classifier.
            dtype: element type, where the value does not have the right one.
            name: name of the tensor; small unnamed ones are named by their content.
        """
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        name = name or _content_name(array)
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        name: str,
        outputs: int | Sequence[str] = 1,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a node.

        Args:
            operator: ONNX operator.
            inputs: names of its inputs; an empty one stands for an input that is left out.
            name: name of the node and of its output; a further node of the same name gets a number.
            outputs: number of outputs, or names for all of them; an empty one stands for an output that is left out.
            domain: of the operator.
            attributes: of the operator.

        Returns:
            The output's name, or a list of names where there are several.
        """
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name}.{number}"
        self._taken.add(unique)
        if isinstance(outputs, int):
            names = [unique] if outputs == 1 else [f"{unique}:{index}" for index in range(outputs)]
        else:
            names = list(outputs)
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=unique, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def choose(
        self,
        condition: str,
        then: Callable[[GraphBuilder], str],
        otherwise: Callable[[GraphBuilder], str],
        *,
        name: str,
    ) -> str:
        """Run one of two parts of the graph; both see all tensors there are so far and give one float tensor."""
        branches = {}
        for attribute, build in (("then_branch", then), ("else_branch", otherwise)):
            branch = GraphBuilder(self)
            result = helper.make_tensor_value_info(build(branch), onnx.TensorProto.FLOAT, None)
            branches[attribute] = helper.make_graph(branch.nodes, f"{name}/{attribute}", [], [result])
        return str(self.node("If", [condition], name=name, **branches))


def model_of(graph: onnx.GraphProto, constants: Iterable[onnx.TensorProto], **options: Any) -> onnx.ModelProto:
    """A model of a graph and its constants, which are copied once; :mod:`onnx.helper` alone copies them twice.

    Args:
        graph: without constants.
        constants: initializers; an iterator that forgets what it gave keeps no weight in memory twice.
        options: of ``onnx.helper.make_model``.
    """
    model = helper.make_model(graph, **options)
    for tensor in constants:
        model.graph.initializer.append(tensor)
    return model


class Scope:
    """Short calls for the nodes of one concern: ``add("Add", a, b)`` is a node named ``prefix/Add``."""

    def __init__(self, builder: GraphBuilder, prefix: str) -> None:
        self.builder, self.prefix = builder, prefix

    def __call__(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, named after its operator unless ``name`` is given."""
        unique = name or f"{self.prefix}/{operator}"
        return self.builder.node(operator, inputs, name=unique, outputs=outputs, **attributes)

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.builder.constant(values, np.int64)

    def integer(self, value: int) -> str:
        """A scalar of int64."""
        return self.builder.constant(value, np.int64)

    def double(self, value: Any) -> str:
        """Numbers of float64, in the shape they are given in."""
        return self.builder.constant(value, np.float64)

    def single(self, value: Any) -> str:
        """Numbers of float32, in the shape they are given in."""
        return self.builder.constant(value, np.float32)


def _content_name(array: Array) -> str:
    """Name of a constant: what it holds, if that is short, else a hash of it."""
    shape = "x".join(map(str, array.shape))
    if array.size <= 4:
        return f"{array.dtype}[{shape}]({','.join(map(repr, array.reshape(-1).tolist()))})"
    return f"{array.dtype}[{shape}]#{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
