"""What a graph must do once it is loaded: run fused, and run where it was asked to."""

from __future__ import annotations

from collections.abc import Sequence

from export.graph.config import GraphConfig
from export.graph.openvino_check import check_compiled
from toolkit.errors import CheckFailed
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import image_tower_of
from toolkit.runtime.node_profile import ExecutedNode
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.precision import SPECS
from toolkit.runtime.providers import PROVIDERS

FUSED = {
    "attention": {"Attention", "MultiHeadAttention", "PackedAttention", "GroupQueryAttention"},
    "activation": {"QuickGelu", "Gelu", "FastGelu", "BiasGelu"},
    "layer norm with residual": {"SkipLayerNormalization"},
    "integer product": {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"},
}
"""Operators that stand for a fusion."""
HEAVY = {"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "LayerNormalization", "Softmax"}.union(*FUSED.values())
"""Operators that take the time; small integer arithmetic on shapes may run on the CPU anywhere."""
COMPILING = {"tensorrt"}
"""Providers that run a graph as one node of their own, in which ONNX Runtime sees no operators."""


def fused_counts(nodes: Sequence[ExecutedNode]) -> dict[str, int]:
    """How many operators of each kind of fusion ran."""
    return {kind: sum(node.operator in operators for node in nodes) for kind, operators in FUSED.items()}


def check_nodes(
    nodes: Sequence[ExecutedNode], classifier: Classifier, provider: str, config: GraphConfig
) -> dict[str, int]:
    """Count the fused operators and see where the heavy ones ran; of a traced encoder the latter alone is checked.

    Args:
        nodes: what a session executed.
        classifier: whose layers are to be found in it.
        provider: the one that was asked for.
        config: that the graph was written in.

    Returns:
        The counts of :func:`fused_counts`, and of rotary positions where there are any; of OpenVINO those of
        :func:`export.graph.openvino_check.check_compiled`.

    Raises:
        CheckFailed: a fusion is missing, or a heavy node ran elsewhere; with the names of the nodes.
    """
    if provider == OPENVINO:
        return check_compiled(nodes, classifier, config)
    image, towers = image_tower_of(classifier.encoder), classifier.encoder.towers
    tower = image and image.tower
    blocks = [block for each in towers for block in each.blocks]
    layers, gelus = len(blocks), sum(block.mlp.gate is None for block in blocks)
    counts = fused_counts(nodes)
    if tower and tower.rotary:
        counts["rotary positions"] = sum(node.operator == "RotaryEmbedding" for node in nodes)
    expected = {"integer product": len(config.quantization.matmuls)}
    if not config.standard_ops_only:
        expected |= {"attention": layers, "activation": gelus}
        if tower and tower.rotary:
            expected["rotary positions"] = layers
    if provider == "cpu" and SPECS[config.precision].half:
        expected.pop("activation", None)  # GELU has no kernel for it there, and is computed in float32 by its parts
    if config.fuse_skip_layernorm:  # a layer has two norms; the first one of the first layer has nothing to add
        unnormed = sum(each.post_norm is None for each in towers)
        expected |= {"layer norm with residual": 2 * layers - unnormed}
    missing = [f"{wanted} of {kind}, but {counts[kind]}" for kind, wanted in expected.items() if counts[kind] < wanted]
    if missing and provider not in COMPILING:
        plain = sorted(node.name for node in nodes if node.operator in ("Softmax", "Sigmoid", "Erf", "MatMul"))
        raise CheckFailed(
            f"the graph does not run fused: {layers} layers should give {'; '.join(missing)} ran; "
            f"unfused nodes: {', '.join(plain[:10])}"
        )
    elsewhere = [
        f"{node.name} ({node.operator} on {node.provider})"
        for node in nodes
        if node.operator in HEAVY and node.provider != PROVIDERS[provider]
    ]
    if elsewhere:
        more = f" and {len(elsewhere) - 5} more" if len(elsewhere) > 5 else ""
        raise CheckFailed(f"nodes run elsewhere than on {provider}: {', '.join(elsewhere[:5])}{more}")
    return counts
