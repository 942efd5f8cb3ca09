"""Find the tensors of a classifier that come near the largest number of fp16, on calibration images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from export.graph.config import GraphConfig
from export.graph.half import HALF_MAX, in_head, network_graph
from export.graph.preprocessing import PIXEL_VALUES
from export.graph.subgraph import gives_floats, network_part, open_model, producers, read_by
from export.graph.text_inputs import INPUT_IDS
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.runtime.inputs import Feed

FIX = "check the run's weights and the calibration images"
ATTENTION = frozenset({"Attention", "MultiHeadAttention"})
UNFUSED = GraphConfig(fuse_skip_layernorm=False, standard_ops_only=True)
"""Standard operators, between which every value is a tensor."""


def overflowing(
    classifier: Classifier,
    batches: Iterable[Feed],
    limit: float = HALF_MAX / 2,
    *,
    patches_as_matmul: bool = False,
) -> dict[str, float]:
    """Largest absolute values of the encoder's tensors that come near what fp16 can hold.

    Of a residual sum the mean of the squares of a token counts too: before onnxruntime#28682 CUDA's
    SkipLayerNormalization formed it in fp16, whose result then is finite and wrong. 1.27 has the mend, 1.24, which
    Triton 26.05 runs graphs with, has not.

    The network runs in standard operators. What the fused attention operators keep to themselves
    (queries, keys, values and scores) counts for the tensor that the operator gives. The head is left
    out: it stays fp32.

    Args:
        classifier: in eval mode, float32.
        batches: calibration images, as ``pixel_values`` [B, 3, height, width], and texts as ``input_ids`` [B, T].
        limit: what is too near; half of fp16's largest number leaves room for images in production
            that differ.
        patches_as_matmul: of the config of the graph whose tensors these are.

    Returns:
        Largest absolute value by the tensor's name in the graph, in the order of computation.

    Raises:
        ToolkitError: a tensor, named, has values that are no numbers even in fp32; no images at all.
    """
    names: list[str] = []
    largest: dict[str, float] = {}
    squares: dict[str, float] = {}
    for feed in batches:
        if not largest:
            height, width = feed[PIXEL_VALUES].shape[2:] if PIXEL_VALUES in feed else (1, 1)
            size = (height, width)
            form = {"patches_as_matmul": patches_as_matmul}
            unfused = network_graph(classifier, UNFUSED.model_copy(update=form), size)
            described = classifier.encoder.tower is not None
            fused = producers(network_graph(classifier, GraphConfig(**form), size) if described else unfused)
            names = list(fused)
            squares = {node.output[3]: 0.0 for node in fused.values() if node.op_type == "SkipLayerNormalization"}
            stands_for = _fused_tensors(unfused, fused)
            part = open_model(network_part(unfused, stands_for), provider="cpu", threads=None)
        computed = part.compute(list(stands_for), feed)
        for name, values in zip(stands_for.values(), computed, strict=True):
            largest[name] = float(np.maximum(np.abs(values).max(), largest.get(name, 0.0)))  # max() would lose nan
            if name in squares:
                squares[name] = max(squares[name], float(np.square(values, dtype=np.float64).mean(-1).max()))
        _check_finite(largest, names)
    if not largest:
        raise ToolkitError("no calibration images", where="fp16 calibration", fix="give at least one image")
    near = {name for name in names if max(largest.get(name, 0.0), squares.get(name, 0.0)) > limit}
    return {name: largest[name] for name in names if name in near and not in_head(name)}


def _check_finite(largest: dict[str, float], names: Iterable[str]) -> None:
    for name in names:
        if not np.isfinite(largest.get(name, 0.0)):
            raise ToolkitError("values that are no numbers in fp32", where=name, fix=FIX)


def _fused_tensors(unfused: onnx.ModelProto, fused: dict[str, onnx.NodeProto]) -> dict[str, str]:
    """Float tensors that depend on pixels or texts, with those of the fused graph whose operators compute them."""
    given = {PIXEL_VALUES, INPUT_IDS}
    computed = set(given)
    for node in unfused.graph.node:
        if gives_floats(node) and computed & set(node.input):
            computed.update(node.output)
    masks = {output for node in unfused.graph.node if node.op_type == "Trilu" for output in node.output}
    # scores of unseen tokens are minus infinity there; what they were stands before it
    masked = {output for node in unfused.graph.node if masks & set(node.input) for output in node.output}

    stands_for: dict[str, str] = {}
    for node in reversed(unfused.graph.node):
        for output in node.output:
            if output in fused:
                stands_for[output] = output
        for tensor in read_by(node):
            if tensor in computed and tensor not in fused:
                stands_for.setdefault(tensor, stands_for.get(node.output[0], node.output[0]))
    return {
        tensor: name
        for tensor, name in stands_for.items()
        if tensor in computed - given - masked and (tensor == name or fused[name].op_type in ATTENTION)
    }
