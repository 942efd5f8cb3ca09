"""Where a request's time goes inside the graph, by ONNX Runtime's own profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from toolkit.runtime.node_profile import ExecutedNode

RUNS = 20
"""Profiled runs; the first of them count for nothing but the counts of nodes."""
CONTROL_FLOW = {"If", "Loop", "Scan"}
"""Their own times hold those of the nodes inside them, which are listed too."""
PREPROCESSING = "preprocess"
"""What the names of the preprocessing's nodes begin with."""
PARTS = {
    "matmuls": (
        *("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"),
    ),
    "attention": ("Attention", "MultiHeadAttention"),
    "softmax": ("Softmax",),
    "norms": ("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"),
    "activations": ("Gelu", "QuickGelu", "FastGelu", "BiasGelu", "Sigmoid", "Tanh", "Erf"),
    "rounding": ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}
"""Operators of each part; ``attention`` is what one operator does of matmuls and softmax."""


def by_operator(nodes: Sequence[ExecutedNode]) -> dict[str, Any]:
    """Milliseconds of one run by part and by operator, the largest first.

    Args:
        nodes: of a profiled session on the CPU, with the median seconds of each.

    Returns:
        ``ms`` of all nodes; ``parts``: ``preprocessing`` (where the graph does it), those of :data:`PARTS`, and
        ``other``; ``operators``.
    """
    parts: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    part_of = {operator: part for part, names in PARTS.items() for operator in names}
    for node in nodes:
        if node.operator in CONTROL_FLOW:
            continue
        inside = node.name.startswith(PREPROCESSING)
        parts["preprocessing" if inside else part_of.get(node.operator, "other")] += 1000 * node.seconds
        operators[node.operator] += 1000 * node.seconds
    return {"ms": sum(parts.values()), "parts": _ranked(parts), "operators": _ranked(operators)}


def _ranked(milliseconds: dict[str, float]) -> dict[str, float]:
    return dict(sorted(milliseconds.items(), key=lambda pair: -pair[1]))
