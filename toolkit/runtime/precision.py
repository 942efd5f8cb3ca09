"""All that is known of each precision: one record, which everything else looks up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
EVERYWHERE: tuple[Provider, ...] = ("cpu", "cuda", "tensorrt", "openvino")


@dataclass(frozen=True)
class PrecisionSpec:
    """A precision that a graph may have."""

    name: Precision
    file: str
    """Name of the precision's graph in a bundle."""
    providers: tuple[Provider, ...]
    """That have kernels for it; fp16 runs on CPUs too, though in float32 between the rounded weights."""
    searched_on: tuple[Provider, ...]
    """Where it may be the fastest, so that ``--precision auto`` tries it."""
    element: str
    """Type of the encoder's weights, as numpy, torch and ONNX (in capitals) call it."""
    least_agreement: float
    """Top-1 agreement with fp32 that parity asks for: it fails where a lower one is certain (95 %)."""
    needs_description: bool = False
    """Whether it is made from the description of a tower, and not from a traced graph."""

    @property
    def half(self) -> bool:
        """Whether the encoder computes in 16 bits of floating point."""
        return self.element in ("float16", "bfloat16")


SPECS: dict[str, PrecisionSpec] = {
    spec.name: spec
    for spec in (
        PrecisionSpec("fp32", "model.onnx", EVERYWHERE, EVERYWHERE, "float32", 0.0),
        PrecisionSpec("fp16", "model.fp16.onnx", ("cpu", "cuda", "tensorrt"), ("cuda", "tensorrt"), "float16", 0.995),
        PrecisionSpec(
            "bf16",
            "model.bf16.onnx",
            ("cuda", "openvino"),
            ("cuda", "openvino"),
            "bfloat16",
            0.98,
            needs_description=True,
        ),
        PrecisionSpec(
            "int8",
            "model.int8.onnx",
            ("cpu", "tensorrt", "openvino"),
            ("cpu", "tensorrt", "openvino"),
            "int8",
            0.98,
            needs_description=True,
        ),
    )
}
