"""Find the tensors of a classifier that come near the largest number of fp16, on calibration images."""

# B batch, H heads, Q queries, T tokens, D width of a head

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.graph.half import HALF_MAX, in_head, network_graph
from export.graph.module_outputs import captured
from export.graph.subgraph import producers
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier

FIX = "check the run's weights and the calibration images"


def overflowing(
    classifier: Classifier, batches: Iterable[npt.NDArray[np.float32]], limit: float = HALF_MAX / 2
) -> dict[str, float]:
    """Largest absolute values of the encoder's tensors that come near what fp16 can hold.

    The fused attention operators keep queries, keys, values and scores to themselves; theirs count
    for the tensor that the operator gives. Tokens that the graph leaves out in the last layer count
    too. The head is left out: it stays fp32.

    Args:
        classifier: in evaluation form, float32.
        batches: ``pixel_values`` [B, 3, height, width] of calibration images.
        limit: what is too near; half of fp16's largest number leaves room for images in production
            that differ.

    Returns:
        Largest absolute value by the tensor's name in the graph, in the order of computation.

    Raises:
        ToolkitError: a tensor, named, has values that are no numbers even in fp32; no images at all.
    """
    names = list(producers(network_graph(classifier)))
    largest: dict[str, float] = {}
    for pixel_values in batches:
        for name, value in _largest(classifier, torch.from_numpy(pixel_values)):
            largest[name] = float(np.maximum(value, largest.get(name, 0.0)))  # max() would lose nan
        _check_finite(largest, names)
    if not largest:
        raise ToolkitError("no calibration images", where="fp16 calibration", fix="give at least one image")
    return {name: largest[name] for name in names if not in_head(name) and largest.get(name, 0.0) > limit}


def _check_finite(largest: dict[str, float], names: Iterable[str]) -> None:
    for name in names:
        if not np.isfinite(largest.get(name, 0.0)):
            raise ToolkitError("values that are no numbers in fp32", where=name, fix=FIX)


@torch.inference_mode()
def _largest(classifier: Classifier, pixel_values: Tensor) -> Iterator[tuple[str, float]]:
    """Every tensor of a batch by name, some under the same one."""
    tensors = captured(classifier, pixel_values)
    for name, tensor in tensors.items():
        yield name, float(tensor.abs().max())
    for name, module in classifier.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            parts, scale = list(_pooling(tensors, name, module)), module.head_dim**-0.5
            yield f"{name}.out_proj/MatMul", float((tensors[name] - module.out_proj.bias).abs().max())
        elif hasattr(module, "q_proj"):
            parts = [(tensors[f"{name}.{part}_proj"], tensors[f"{name}.{part}_proj/MatMul"]) for part in "qkv"]
            scale = float(module.scale)
        else:
            continue
        query, key = (x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x, _ in parts[:2])
        scores = query @ key.mT * scale  # [B, H, Q, D] and [B, H, T, D] give [B, H, Q, T]
        for hidden in (scores, *(tensor for pair in parts for tensor in pair)):
            yield f"{name}.out_proj/input", float(hidden.abs().max())


def _pooling(tensors: dict[str, Tensor], name: str, module: nn.MultiheadAttention) -> Iterator[tuple[Tensor, Tensor]]:
    """Query, key and value of SigLIP's pooling, each with its product before the bias is added."""
    pooled = tensors[f"{name.rpartition('.')[0]}/input"]
    inputs = (tensors[f"{name}/input"], pooled, pooled)
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    for x, weight, bias in zip(inputs, weights, biases, strict=True):
        product = nn.functional.linear(x, weight)
        yield product + bias, product
