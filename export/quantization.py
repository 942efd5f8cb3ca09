"""How the products of a network are rounded to integers: what graph, PyTorch and a run agree on.

A product x W of float32 is computed as (x_q - z) W_q of 8-bit integers, exact in 32 bits, times the
two scales. Weights are rounded symmetrically. They use 7 bits where nothing speaks against it:
processors without VNNI add pairs of 8-bit products in 16 bits and cut off what does not fit, so 8
bits would give other results there, and worse ones; with weights up to 64, 2 * 255 * 64 fits.
Activations are rounded to 256 steps over a range that is measured on training images (``static``)
or taken from each batch (``dynamic``, which lets an image's logits depend on its neighbours).

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018), section 2.1; ONNX Runtime, "Quantize ONNX Models",
on U8S8 and saturation.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

LARGEST_WEIGHT = {8: 127, 7: 64, 4: 7}
"""Largest rounded weight by the bits of the weights."""
TINY = float(np.finfo(np.float32).tiny) * 2**10
"""Stands for the magnitude of what is all zeros; its scale is no denormal number."""


class Quantization(BaseModel):
    """Which products are rounded, and how; JSON keeps it beside a graph and in a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    activations: Literal["static", "dynamic"] = "static"
    per_channel: bool = True
    """A scale for each output of a product; one for all of them otherwise."""
    weight_bits: Literal[8, 7, 4] = 7
    symmetric: bool = False
    """Activations in int8 around zero, as TensorRT takes them; uint8 over any range otherwise."""
    products: tuple[str, ...] = ()
    """Names of the products that are rounded; all others stay float."""
    ranges: dict[str, tuple[float, float]] = {}
    """With static activations, the smallest and largest value that a product's input is rounded in."""

    def rounds(self, product: str) -> bool:
        """Whether a product is computed in integers."""
        return product in self.products

    def without(self, products: set[str]) -> Quantization:
        """The same with some products left float."""
        return self.model_copy(update={"products": tuple(name for name in self.products if name not in products)})

    def weight(self, matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """A matrix [in, out] in integers, and its scales [out], or one scale []."""
        largest = LARGEST_WEIGHT[self.weight_bits]
        magnitude: npt.NDArray[Any] = np.asarray(np.abs(matrix).max(0 if self.per_channel else None))
        scale: npt.NDArray[np.float32] = (np.maximum(magnitude, TINY) / largest).astype(np.float32)
        return np.clip(np.rint(matrix / scale), -largest, largest).astype(np.int8), scale

    def activation(self, product: str) -> tuple[np.float32, np.uint8 | np.int8]:
        """Scale and zero point of a product's input."""
        low, high = self.ranges[product]
        return affine(low, high, symmetric=self.symmetric)


FLOAT = Quantization()
"""Nothing is rounded."""


def affine(low: float, high: float, *, symmetric: bool = False) -> tuple[np.float32, np.uint8 | np.int8]:
    """Scale and zero point that spread 256 steps over a range; zero is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return np.float32(max(-low, high, TINY) / 127), np.int8(0)
    scale = np.float32(max(high - low, TINY) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))
