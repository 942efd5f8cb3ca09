"""Content of ``parity.json``, checked before anything is judged by it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolkit.strict_json import read_json


class ParityEntry(BaseModel):
    """What was found of one precision on one provider; what else stands there is kept as it is."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    passed: bool
    tolerance: float = Field(ge=0)
    max_abs_logit: float = 0
    mean_abs_logit: float = 0
    noise_floor: float = 0
    top1_agreement: float = Field(0, ge=0, le=1)
    images: int = Field(0, ge=0)
    batch_sizes: list[int] = []


class ParityFile(BaseModel):
    """An entry for each precision and provider."""

    model_config = ConfigDict(extra="allow", strict=True)

    results: dict[str, dict[str, ParityEntry]]


def read_parity(content: bytes) -> dict[str, Any]:
    """The content as it was written.

    Raises:
        ValueError: no JSON, or entries of another form.
    """
    parsed: dict[str, Any] = read_json(content)
    ParityFile.model_validate(parsed)
    return parsed
