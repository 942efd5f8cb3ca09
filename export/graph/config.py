"""In which precision and operators a network is said; a graph carries it in its metadata."""

from __future__ import annotations

import onnx
from pydantic import BaseModel, ConfigDict

from export.graph.quantization import FLOAT, Quantization
from toolkit.errors import ToolkitError
from toolkit.runtime.session import Precision

METADATA = "form"
"""Key of the form in a graph's ``metadata_props``."""


class Form(BaseModel):
    """How the parts of a network are said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = "fp32"
    quantization: Quantization = FLOAT
    """With int8, which products are rounded, and how."""
    islands: dict[str, float] = {}
    """With fp16, tensors that stay float32, with the largest magnitude that was measured in each."""
    temperature: float | None = None
    """Of the probabilities, where it was fitted again for this form; the classifier's otherwise."""
    joined_norms: bool = True
    """Residual sum, bias of the product before it, and norm by one operator; integer products add their bias
    themselves, and then a sum and a norm apart are faster on CPUs."""
    standard: bool = False
    """Standard operators alone, for compilers that know no others, such as TensorRT."""


FUSED = Form()
"""Float32 in ONNX Runtime's fused operators."""


def form_of(model: onnx.ModelProto) -> Form:
    """The form that a graph was written in.

    Raises:
        ToolkitError: the graph does not say.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA:
            return Form.model_validate_json(entry.value)
    raise ToolkitError("the graph does not say in which form it is", where="metadata_props", fix="export it again")
