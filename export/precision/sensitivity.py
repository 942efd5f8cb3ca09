"""What rounding each matmul alone does to the logits, and what the matmul costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.graph.given import given
from export.graph.quantization import FLOAT, Quantization
from export.precision.fake_quant import QuantizedLinear, QuantizedPatches, quantized_classifier
from toolkit.models.classifier import Classifier
from toolkit.progress import Progress
from toolkit.runtime.inputs import Feed, examples_in
from toolkit.runtime.preprocess import Preprocess


@dataclass(frozen=True)
class Sensitivity:
    """Of one matmul."""

    matmul: str
    error: float
    """Mean squared difference of the logits when it alone is rounded. Errors of several matmuls that are independent
    add up."""
    operations: float
    """Multiplications and additions for one example."""

    @property
    def error_an_operation(self) -> float:
        """What rounding an operation of it costs."""
        return self.error / max(self.operations, 1.0)


@torch.inference_mode()
def sensitivities(
    classifier: Classifier,
    preprocess: Preprocess,
    quantization: Quantization,
    parts: Sequence[Feed],
    progress: Progress,
) -> list[Sensitivity]:
    """Of each matmul that is rounded, the one first whose rounding costs most for an operation.

    PyTorch with the very same rounding stands for the graph, which parity holds against it. The groups in front of a
    matmul give what they give without it, so only those from its own on are run.

    Args:
        classifier: in fp32; it stays as it is.
        preprocess: between images and ``pixel_values``.
        quantization: which matmuls are rounded, and how.
        parts: what the classifier takes, in batches.
        progress: told how it goes on.
    """
    exact = quantized_classifier(classifier, preprocess, FLOAT)
    states: list[Any] = [given(exact, part) for part in parts]
    expected = torch.cat([exact(state) for state in states]).double()
    count = sum(map(examples_in, parts))
    left, found = list(quantization.matmuls), []
    for place, prefixes in enumerate(_prefixes(exact)):
        for matmul in [name for name in left if name.startswith(prefixes)]:
            left.remove(matmul)
            rounded = quantized_classifier(classifier, preprocess, quantization.only(matmul))
            with _counted(rounded) as operations:
                logits = torch.cat([rounded(state, start=place) for state in states]).double()
            error = float((logits - expected).square().mean())
            found.append(Sensitivity(matmul, error, sum(operations) / count))
            progress.done(len(found), len(quantization.matmuls))
        states = [exact(state, start=place, stop=place + 1) for state in states]
    assert not left, f"in no group: {left}"
    return sorted(found, key=lambda each: -each.error_an_operation)


def _prefixes(classifier: Classifier) -> Iterator[tuple[str, ...]]:
    """What the names of each encoder group's matmuls begin with, in the order of computation."""
    names = {module: name for name, module in classifier.named_modules()}
    for group in classifier.encoder.groups:
        yield tuple(f"{names[module]}." for module in group.modules)


@contextmanager
def _counted(rounded: Classifier) -> Iterator[list[int]]:
    """Operations of each call of a rounded layer, while this is open."""
    operations: list[int] = []

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        operations.append(2 * output.numel() * module.weight[0].numel())  # type: ignore[index, union-attr, operator]

    layers = [each for each in rounded.modules() if isinstance(each, QuantizedLinear | QuantizedPatches)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield operations
    finally:
        for handle in handles:
            handle.remove()
