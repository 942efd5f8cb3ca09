"""What a graph must do once OpenVINO compiled it: compute in the types that the graph says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from export.graph.config import GraphConfig
from toolkit.errors import CheckFailed
from toolkit.models.classifier import Classifier
from toolkit.runtime.node_profile import ExecutedNode

MATMULS = frozenset({"FullyConnected", "FullyConnectedQuantizedLegacy", "MatMul", "Convolution"})
"""OpenVINO's nodes that multiply matrices; attention's two matmuls are inside a subgraph of its own."""
INTEGERS = frozenset({"i8", "u8"})
MATMULS_A_LAYER = 4
"""Query, key and value in one, output, and both of the MLP."""


def check_compiled(nodes: Sequence[ExecutedNode], classifier: Classifier, config: GraphConfig) -> dict[str, int]:
    """Count the compiled nodes, and see that the matmuls run in the precision that is claimed for them.

    OpenVINO fuses by itself and shows what it made, so that no operator of the graph is looked for.

    Args:
        nodes: of the compiled graph.
        classifier: whose layers are to be found in it.
        config: that the graph was written in.

    Returns:
        How many nodes of each kind compute in each type, such as ``FullyConnected i8``.

    Raises:
        CheckFailed: matmuls run in another type.
    """
    counts = Counter(f"{node.operator} {node.element}".strip() for node in nodes)
    by_type = Counter(node.element for node in nodes if node.operator in MATMULS)
    layers = sum(len(tower.blocks) for tower in classifier.encoder.towers)
    integers = sum(by_type[element] for element in INTEGERS)
    there = ", ".join(f"{count} in {element}" for element, count in by_type.most_common())
    if integers < len(config.quantization.matmuls):
        wanted = len(config.quantization.matmuls)
        raise CheckFailed(f"OpenVINO does not run the {wanted} rounded matmuls in integers; it runs {there}")
    if config.precision == "bf16" and by_type["bf16"] < MATMULS_A_LAYER * layers:
        raise CheckFailed(f"OpenVINO does not run the matmuls of {layers} layers in bf16; it runs {there}")
    if "bf16" not in (config.precision, config.floats) and by_type["bf16"] + by_type["f16"]:
        raise CheckFailed(f"OpenVINO runs matmuls in half precision that the graph has in float32: {there}")
    return dict(sorted(counts.items()))
