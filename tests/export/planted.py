"""Faults that a conversion could make, planted in a shipped graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph.preprocessing import PIXEL_VALUES
from toolkit.runtime.bundle import Bundle


def plant(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a bundle's graph and give the file a fresh hash."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    onnx.save(model, bundle / "model.onnx")
    Bundle(bundle).update_manifest()


def node_ending(model: onnx.ModelProto, ending: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name.endswith(ending))
    return node


def wrong_epsilon(model: onnx.ModelProto) -> None:
    """The second norm of layer 1 adds 1e-2 to the variance."""
    (epsilon,) = (a for a in node_ending(model, "layers.1.layer_norm2").attribute if a.name == "epsilon")
    epsilon.f = 1e-2


def overflowing_fp16(model: onnx.ModelProto) -> None:
    """A matmul of layer 1 passes through fp16 in a scale that leaves fp16's range."""
    node = node_ending(model, "layers.1.mlp.fc1/MatMul")
    place = list(model.graph.node).index(node) + 1
    result, node.output[0] = node.output[0], "planted.product"
    scale = numpy_helper.from_array(np.array(1e8, np.float32), "planted.scale")
    start, end = (numpy_helper.from_array(np.array([v]), f"planted.{v}") for v in (0, 2**31))
    model.graph.initializer.extend([scale, start, end])
    cut = ["planted.half", start.name, end.name]  # keeps ONNX Runtime from dropping the two casts
    nodes = [
        helper.make_node("Mul", ["planted.product", scale.name], ["planted.scaled"], name="planted.scaled"),
        helper.make_node("Cast", ["planted.scaled"], ["planted.half"], to=TensorProto.FLOAT16, name="planted.half"),
        helper.make_node("Slice", cut, ["planted.same"], name="planted.same"),
        helper.make_node("Cast", ["planted.same"], ["planted.single"], to=TensorProto.FLOAT, name="planted.single"),
        helper.make_node("Div", ["planted.single", scale.name], [result], name=node.name),
    ]
    node.name = "planted.product"
    for offset, new in enumerate(nodes):
        model.graph.node.insert(place + offset, new)


def swapped_mean_and_std(model: onnx.ModelProto) -> None:
    """The normalisation subtracts the deviation and divides by the mean."""
    division = next(node for node in model.graph.node if node.output[0] == PIXEL_VALUES)
    subtraction = next(node for node in model.graph.node if node.output[0] == division.input[0])
    subtraction.input[1], division.input[1] = division.input[1], subtraction.input[1]


def wrong_crop(model: onnx.ModelProto) -> None:
    """The crop begins three pixels further left and up, and so does the cut of the rows."""
    for plan in ("row_plan", "column_plan"):
        node = node_ending(model, f"preprocess/{plan}/Floor")
        place = list(model.graph.node).index(node)
        shift = numpy_helper.from_array(np.array([3.0]), f"planted.{plan}")
        model.graph.initializer.append(shift)
        name, node.output[0] = node.output[0], f"{node.output[0]}.planted"
        moved = helper.make_node("Sub", [node.output[0], shift.name], [name], name=f"planted.{plan}.moved")
        model.graph.node.insert(place + 1, moved)


def other_weight(model: onnx.ModelProto) -> None:
    """One weight of layer 0's query, key and value changes by a hundredth."""
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith("layers.0.self_attn.qkv.weight^T"))
    values = numpy_helper.to_array(tensor).copy()
    values[3, 5] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
