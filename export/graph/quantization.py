"""How the matmuls of a network are rounded to integers: what graph, PyTorch and a run agree on.

A matmul x W of float32 is computed as (x_q - z) W_q of 8-bit integers, exact in 32 bits, times the
two scales. Weights are rounded symmetrically, activations to 256 steps over a range that is measured
on training images (``static``) or taken from each batch (``dynamic``, which lets an image's logits
depend on its neighbours).

x86 processors without VNNI add the matmuls of rows 2k and 2k + 1 in 16 bits and cut off what does not
fit, silently. Weights are therefore scaled so that two such neighbours come to 128 at most:
255 * 128 fits, the result is the same on every processor, and the steps are still finer than with
weights of 7 bits, the usual way out.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018), section 2.1; ONNX Runtime, "Quantize ONNX Models",
on U8S8 and saturation.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from toolkit.errors import ToolkitError

LARGEST_WEIGHT = {8: 127, 4: 7}
"""Largest rounded weight by the bits of the weights."""
LARGEST_PAIR = 128
"""What two neighbouring weights of one sign may come to: 255 times it fits in 16 bits."""
TINY = float(np.finfo(np.float32).tiny) * 2**10
"""Stands for the magnitude of what is all zeros; its scale is no denormal number."""


class Quantization(BaseModel):
    """Which matmuls are rounded, and how; JSON keeps it beside a graph and in a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    activations: Literal["static", "dynamic"] = "static"
    per_channel: bool = True
    """A scale for each output of a matmul; one for all of them otherwise."""
    weight_bits: Literal[8, 4] = 8
    pairs_fit: bool = True
    """Keep neighbouring weights below ``LARGEST_PAIR`` together, for processors without VNNI."""
    symmetric: bool = False
    """Activations in int8 around zero, as TensorRT takes them; uint8 over any range otherwise."""
    matmuls: tuple[str, ...] = Field((), alias="products")
    """Names of the matmuls that are rounded; all others stay float."""
    ranges: dict[str, tuple[float, float]] = {}
    """With static activations, the smallest and largest value that a matmul's input is rounded in."""

    def rounds(self, matmul: str) -> bool:
        """Whether a matmul is computed in integers."""
        return matmul in self.matmuls

    def without(self, matmuls: set[str]) -> Quantization:
        """The same with some matmuls left float."""
        return self.model_copy(update={"matmuls": tuple(name for name in self.matmuls if name not in matmuls)})

    def only(self, matmul: str) -> Quantization:
        """The same with one matmul rounded alone."""
        return self.model_copy(update={"matmuls": (matmul,)})

    def weight(self, matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """A matrix [in, out] in integers, and its scales [out], or one scale []."""
        largest, axes = LARGEST_WEIGHT[self.weight_bits], (0, 1) if self.per_channel else None
        magnitude = np.abs(_by_pairs(matrix)).max(axes) / largest
        if self.pairs_fit:
            magnitude = np.maximum(magnitude, _of_one_sign(matrix).max(axes) / LARGEST_PAIR)
        scale: npt.NDArray[np.float32] = np.asarray(np.maximum(magnitude, TINY), np.float32)
        rounded = np.clip(np.rint(matrix / scale), -largest, largest).astype(np.int8)
        return _fitted(rounded) if self.pairs_fit else rounded, scale

    def activation(self, matmul: str) -> tuple[np.float32, np.uint8 | np.int8]:
        """Scale and zero point of a matmul's input.

        Raises:
            ToolkitError: its range was never measured.
        """
        if matmul not in self.ranges:
            what, fix = "the range of a matmul's input is missing", "export or train again"
            raise ToolkitError(what, where=matmul, fix=fix)
        low, high = self.ranges[matmul]
        return affine(low, high, symmetric=self.symmetric)


def _by_pairs(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A matrix [in, out] as [in / 2, 2, out], a row of zeros added where ``in`` is odd."""
    return np.pad(matrix, ((0, len(matrix) % 2), (0, 0))).reshape(-1, 2, matrix.shape[1])


def _of_one_sign(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What the positive and the negative members of each pair of rows come to: [in / 2, 2, out]."""
    pairs = _by_pairs(matrix.astype(np.float64))
    return np.stack([np.maximum(sign * pairs, 0).sum(1) for sign in (1, -1)], axis=1)


def _fitted(rounded: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Take one from the larger of two neighbours that rounding has made one too large together."""
    pairs = _by_pairs(rounded)
    over = _of_one_sign(rounded).max(1) > LARGEST_PAIR  # [in / 2, out]
    larger = np.abs(pairs[:, 1].astype(np.int16)) > np.abs(pairs[:, 0].astype(np.int16))
    for member, chosen in enumerate((over & ~larger, over & larger)):
        pairs[:, member] -= np.where(chosen, np.sign(pairs[:, member]), 0).astype(np.int8)
    return np.ascontiguousarray(pairs.reshape(-1, rounded.shape[1])[: len(rounded)])


FLOAT = Quantization()
"""Nothing is rounded."""


def affine(low: float, high: float, *, symmetric: bool = False) -> tuple[np.float32, np.uint8 | np.int8]:
    """Scale and zero point that spread 256 steps over a range; zero is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return np.float32(max(-low, high, TINY) / 127), np.int8(0)
    scale = np.float32(max(high - low, TINY) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))
