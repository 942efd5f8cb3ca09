"""PyTorch's own form of a half-precision graph: what such a graph may differ by at best."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from export.graph.config import GraphConfig
from export.graph.half import TORCH_TYPES, HalfPrecision, in_head, network_graph, plan
from export.graph.subgraph import producers
from export.graph.tensor_names import TensorNames, names_of
from toolkit.models.classifier import Classifier
from toolkit.models.families.tower import Attention, fold_layer_scales


def half_reference(
    classifier: Classifier,
    precision: HalfPrecision,
    keep_fp32: Collection[str] = (),
    *,
    patches_as_matmul: bool = False,
) -> Classifier:
    """A copy that computes in fp32, with weights and activations of the encoder rounded to half.

    What is rounded is what :func:`export.graph.half.to_half` with the same arguments has in half. The sums
    inside the layers are an exception: the next norm takes them rounded, the stream itself is
    rounded at the end of a layer.

    Args:
        classifier: in eval mode, float32; it stays as it is.
        precision: ``fp16`` or ``bf16``.
        keep_fp32: tensors that stay fp32.
        patches_as_matmul: of the graph's config.

    Returns:
        A classifier for :meth:`~toolkit.models.classifier.Classifier.reference_logits`.
    """
    result = copy.deepcopy(classifier)
    names, dtype = names_of(result), TORCH_TYPES[precision]
    if result.encoder.tower is None:
        round_modules(result.encoder, dtype)
        return result
    network = network_graph(classifier, GraphConfig(patches_as_matmul=patches_as_matmul))
    known, half = set(producers(network)), plan(network, precision, keep_fp32).tensors
    fold_layer_scales(result.encoder.tower)
    attentions = [attention for tower in result.encoder.towers for attention in tower.attentions]
    inside = _inside_attention(attentions, names)

    def round_output(module: nn.Module, inputs: Any, output: Any) -> Any:
        return rounded_to(output, dtype)

    def round_input(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return (rounded_to(inputs[0], dtype), *inputs[1:]) if inputs else inputs

    for name, module in result.named_modules():
        if not name.startswith("encoder.") or in_head(name):
            continue
        matmul, fused = f"{name}/MatMul", inside.get(module, ())
        # what a module gives has its name; else it adds its bias later, or is part of an attention operator
        given = [tensor for tensor in (name, matmul, *fused[-1:]) if tensor in known]
        if given and given[0] in half:
            module.register_forward_hook(round_output)
        if f"{name}/input" in half:
            module.register_forward_pre_hook(round_input)
        read_for = (matmul, *fused[:-1], name, *fused[-1:], name.rpartition(".")[0])
        reading = [tensor for tensor in read_for if tensor in known]
        if reading and reading[0] in half:
            for parameter in module.parameters(recurse=False):
                parameter.data = rounded_to(parameter.data, dtype)
    return result


def round_modules(whole: nn.Module, dtype: torch.dtype, *, keep: tuple[type[nn.Module], ...] = ()) -> None:
    """Round what a network's modules without parts give from now on, and all parameters but those of ``keep``."""
    for module in whole.modules():
        if not isinstance(module, keep):
            for parameter in module.parameters(recurse=False):
                parameter.data = rounded_to(parameter.data, dtype)
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: rounded_to(output, dtype))


def _inside_attention(attentions: Sequence[Attention], names: TensorNames) -> dict[nn.Module, tuple[str, str]]:
    """Where the work of query, key and value projections is: their joint matmul, and what attention gives."""
    return {
        projection.module: (f"{names.joint_matmul(attention, 'kv')}/MatMul", names.mixed_values(attention))
        for attention in attentions
        for projection in (attention.query, attention.key, attention.value)
    }


def rounded_to(values: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors with the values that a type has, in the type that they had; anything else as it is."""
    floating = isinstance(values, Tensor) and values.is_floating_point()
    return values.to(dtype).to(values.dtype) if floating else values
