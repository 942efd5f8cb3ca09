"""A graph small enough to be computed by hand: ``pixel_values`` [batch, 3, 4, 4] times a matrix, plus a bias."""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from toolkit.runtime.preprocess import Preprocess

LABELS = ["blue", "green", "red"]
SIDE = 4
FEATURES = 3 * SIDE * SIDE
WEIGHT = np.random.default_rng(0).normal(0, 0.3, (FEATURES, len(LABELS))).astype(np.float32)
PREPROCESS = Preprocess(resize="squash", size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
METADATA = {"labels": json.dumps(LABELS), "preprocess": PREPROCESS.model_dump_json()}
BIAS = np.array([0.1, -0.2, 0.3], dtype=np.float32)


def graph_bytes() -> bytes:
    """The graph as an ONNX file's content, with labels and preprocessing in its metadata."""
    batch = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(LABELS)])
        for name in ("logits", "probabilities")
    ]
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    constants = [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")]
    graph = helper.make_graph(nodes, "tiny", [batch], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, METADATA)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def outsourced(location: str, *, offset: int = 0) -> tuple[bytes, bytes]:
    """The graph with its weight in a file that it calls ``location``, and that file's content."""
    model = ModelProto.FromString(graph_bytes())
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": len(data)}.items():
        weight.external_data.add(key=key, value=str(value))
    return model.SerializeToString(), bytes(offset) + data


def expected_logits(pixel_values: np.ndarray) -> np.ndarray:
    """What the graph computes, in float64: [batch, classes]."""
    return pixel_values.reshape(len(pixel_values), FEATURES).astype(np.float64) @ WEIGHT + BIAS


def rounding(pixel_values: np.ndarray) -> float:
    """Bound on what fp32 may lose in one logit, in whatever order it sums.

    n products and sums lose at most n eps of the sum of absolute products (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1).
    """
    absolute = np.abs(pixel_values).reshape(len(pixel_values), FEATURES) @ np.abs(WEIGHT) + np.abs(BIAS)
    return float((FEATURES + 1) * np.finfo(np.float32).eps * absolute.max())
