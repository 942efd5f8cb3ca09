"""The operating point of a classifier: the class that is said where its probability reaches a threshold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

METADATA = "operating_point"
"""Key of a graph's ``metadata_props``."""


class OperatingPoint(BaseModel):
    """Chosen on validation, and part of what a bundle decides."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    label: str = Field(alias="class", min_length=1)
    """The class; written ``class``."""
    threshold: float = Field(gt=0, lt=1)
    """Of its calibrated probability."""
    temperature: float = Field(gt=0, allow_inf_nan=False)
    """That the probability is calibrated with, in every precision."""
