"""In which precision and operators a network is said; a graph carries it in its metadata."""

from __future__ import annotations

from typing import Any, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from export.graph.quantization import FLOAT, Quantization
from toolkit.errors import ToolkitError
from toolkit.runtime.precision import Precision

METADATA = "form"
"""Key of the config in a graph's ``metadata_props``."""


Floats = Literal["fp32", "bf16"]


class GraphConfig(BaseModel):
    """How the parts of a network are said."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    precision: Precision = "fp32"
    quantization: Quantization = FLOAT
    """With int8, which matmuls are rounded, and how."""
    floats: Floats = "fp32"
    """With int8 for OpenVINO, the type in which all that is not rounded is computed, where the processor has it; the
    file has float32."""
    keep_fp32: dict[str, float] = Field({}, alias="islands")
    """With fp16, tensors that stay float32, with the largest magnitude that was measured in each."""
    temperature: float | tuple[float, ...] | None = None
    """Of the probabilities, of all classes or one for each, where it was fitted again for this config; else the
    classifier's."""
    fuse_skip_layernorm: bool = Field(True, alias="joined_norms")
    """Residual sum, bias of the matmul before it, and norm by one operator, for CUDA; on CPUs a sum and a norm apart
    are 4 to 15 % faster (benchmarks/results/graph_form.json)."""
    standard_ops_only: bool = Field(False, alias="standard")
    """Standard operators alone, for compilers that know no others: TensorRT's and OpenVINO's."""
    patches_as_matmul: bool = False
    """The patch embedding as a matmul of the patches' pixels, for CUDA: cuDNN plans a convolution anew at each batch
    size (onnxruntime#23006), and knows none in bf16."""

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All fields, but for those that graphs did not have before and that this one has no use for."""
        content: dict[str, Any] = serialize(self)
        for name in ("patches_as_matmul", "floats"):
            if getattr(self, name) == GraphConfig.model_fields[name].default:
                content.pop(name, None)
        return content


FUSED = GraphConfig()
"""Float32 in ONNX Runtime's fused operators."""


def config_of(model: onnx.ModelProto) -> GraphConfig:
    """The config that a graph was written in.

    Raises:
        ToolkitError: the graph does not say.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA:
            return GraphConfig.model_validate_json(entry.value)
    raise ToolkitError("the graph does not say which config it has", where="metadata_props", fix="export it again")
