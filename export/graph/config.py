"""In which precision and operators a network is said; a graph carries it in its metadata."""

from __future__ import annotations

import onnx
from pydantic import BaseModel, ConfigDict, Field

from export.graph.quantization import FLOAT, Quantization
from toolkit.errors import ToolkitError
from toolkit.runtime.precision import Precision

METADATA = "form"
"""Key of the config in a graph's ``metadata_props``."""


class GraphConfig(BaseModel):
    """How the parts of a network are said."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    precision: Precision = "fp32"
    quantization: Quantization = FLOAT
    """With int8, which matmuls are rounded, and how."""
    keep_fp32: dict[str, float] = Field({}, alias="islands")
    """With fp16, tensors that stay float32, with the largest magnitude that was measured in each."""
    temperature: float | tuple[float, ...] | None = None
    """Of the probabilities, of all classes or one for each, where it was fitted again for this config; else the
    classifier's."""
    fuse_skip_layernorm: bool = Field(True, alias="joined_norms")
    """Residual sum, bias of the matmul before it, and norm by one operator; integer matmuls add their bias
    themselves, and then a sum and a norm apart are faster on CPUs."""
    standard_ops_only: bool = Field(False, alias="standard")
    """Standard operators alone, for compilers that know no others: TensorRT's and OpenVINO's."""


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
