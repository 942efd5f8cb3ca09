"""The ranges that static quantisation rounds activations in, measured on training images.

The whole range would spend most of its 256 steps on outliers, so each end is drawn in as far as
that makes the mean squared rounding error smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from export.graph.quantization import affine
from export.graph.subgraph import network_part, open_model
from toolkit.errors import ToolkitError
from toolkit.runtime.inputs import Feed, examples_in, part_of
from toolkit.runtime.preprocess import Float32

VALUES_OF_AN_IMAGE = 1024
"""Values of each tensor that an image adds to the sample."""
SHARES = np.linspace(0.2, 1.0, 33)
"""Shares of the whole range that are tried for each end."""
WEIGHT = ".weight^T"


@dataclass
class Observed:
    """A tensor's extremes, and a sample of its values."""

    low: float = 0.0
    high: float = 0.0
    sample: list[Float32] = field(default_factory=list)

    def add(self, values: Float32, places: npt.NDArray[np.int64]) -> None:
        """Take in a batch."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.sample.append(values.reshape(-1)[places])

    def range(self, *, symmetric: bool = False) -> tuple[float, float]:
        """The ends with the smallest mean squared rounding error."""
        values = np.concatenate([*self.sample, np.array([self.low, self.high], np.float32)])
        high = min(SHARES, key=lambda share: _error(values, self.low, share * self.high, symmetric)) * self.high
        low = min(SHARES, key=lambda share: _error(values, share * self.low, high, symmetric)) * self.low
        return float(low), float(high)


def matmul_inputs(model: onnx.ModelProto) -> dict[str, str]:
    """Which tensor each matmul of a float graph takes, by the matmul's name."""
    return {
        node.input[1].removesuffix(WEIGHT): node.input[0]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Attention") and node.input[1].endswith(WEIGHT)
    }


def observe(
    model: onnx.ModelProto, matmuls: Iterable[str], batches: Iterable[Feed], *, threads: int | None = None
) -> dict[str, Observed]:
    """What each matmul's input holds over images.

    Args:
        model: the network in float32, said without joined norms.
        matmuls: names.
        batches: what the network takes, such as ``pixel_values`` [batch, 3, height, width].
        threads: threads of the session, on the CPU.

    Raises:
        ToolkitError: the images are all alike, so that their ranges say nothing of others.
    """
    inputs = matmul_inputs(model)
    by_matmul = {name: inputs[name] for name in matmuls}
    if not by_matmul:
        return {}
    tensors = list(dict.fromkeys(by_matmul.values()))
    part = open_model(network_part(model, tensors), provider="cpu", threads=threads)
    seen = {tensor: Observed() for tensor in tensors}
    rng, first, alike, count = np.random.default_rng(0), None, True, 0
    for feed in batches:
        first = part_of(feed, 0) if first is None else first
        count += examples_in(feed)
        alike = alike and all(bool((values == first[name]).all()) for name, values in feed.items())
        for tensor, values in zip(tensors, part.compute(tensors, feed), strict=True):
            seen[tensor].add(values, rng.integers(0, values.size, VALUES_OF_AN_IMAGE * examples_in(feed)))
    if alike:
        images = "there is one calibration image" if count == 1 else f"all {count} calibration images are alike"
        raise ToolkitError(
            f"{images}, so the ranges of the activations can't be measured",
            where="the training split",
            fix="give more of them (--calibration-images), and varied ones, or use fp32 or fp16",
        )
    return {name: seen[tensor] for name, tensor in by_matmul.items()}


def _error(values: Float32, low: float, high: float, symmetric: bool) -> float:
    """Mean squared error of rounding to 256 steps of a range."""
    scale, zero = affine(low, high, symmetric=symmetric)
    smallest, largest = (-128, 127) if symmetric else (0, 255)
    levels = np.clip(np.rint(values / scale) + int(zero), smallest, largest)
    return float(np.square((levels - int(zero)) * scale - values).mean())
