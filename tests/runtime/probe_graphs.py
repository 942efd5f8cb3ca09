"""The probes that the package holds, written anew: a 1x1 convolution and a matmul in each precision."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

KERNEL = np.array([[1, -1, 2], [0, 1, -2]], np.float32).reshape(2, 3, 1, 1)
MATRIX = np.triu(np.ones((4, 4), np.float32))
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def probe_graph(precision: str) -> ModelProto:
    """``x`` float32 [1, 3, 4, 4] to ``y`` float32 [1, 2, 4, 4].

    bf16 convolves in fp32, as its graphs do: ONNX has no bf16 convolution before opset 22. int8 stands as quantised
    and dequantised values, which TensorRT takes.
    """
    nodes: list[NodeProto] = []
    constants = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(MATRIX, "matrix")]
    x = "x"
    if precision == "fp16":
        constants = [
            helper.make_tensor(t.name, HALF["fp16"], t.dims, numpy_helper.to_array(t).ravel()) for t in constants
        ]
        nodes.append(helper.make_node("Cast", [x], ["x16"], to=HALF["fp16"]))
        x = "x16"
    if precision == "int8":
        constants += [helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])]
        constants += [helper.make_tensor("zero", TensorProto.INT8, [], [0])]
        nodes.append(helper.make_node("QuantizeLinear", [x, "scale", "zero"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]))
        x = "dq"
    nodes.append(helper.make_node("Conv", [x, "kernel"], ["planes"], kernel_shape=[1, 1]))
    planes = "planes"
    if precision == "bf16":
        constants[1] = helper.make_tensor("matrix", HALF["bf16"], MATRIX.shape, MATRIX.ravel())
        nodes.append(helper.make_node("Cast", [planes], ["planes16"], to=HALF["bf16"]))
        planes = "planes16"
    last = "y" if precision not in HALF else "y16"
    nodes.append(helper.make_node("MatMul", [planes, "matrix"], [last]))
    if precision in HALF:
        nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT))
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4]),
    ]
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
