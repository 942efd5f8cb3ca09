"""``parity.json``: its schema, checked when it is written and before anything is judged by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolkit.files import write_json
from toolkit.strict_json import read_json

PARITY = "parity.json"


class ParityEntry(BaseModel):
    """What was found of one precision on one provider; files of other versions may hold more or less."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    passed: bool
    tolerance: float = Field(ge=0)
    """Of the largest logit difference: the noise floor times ``noise_multiple``."""
    max_abs_logit: float = 0
    mean_abs_logit: float = 0
    max_abs_logit_by_batch_size: dict[str, float] = {}
    worst_image: str = ""
    noise_floor: float = 0
    """What PyTorch differs from itself by, or what the precision alone costs in PyTorch."""
    noise_multiple: float = 0
    noise: dict[str, Any] = {}
    """What the floor consists of."""
    against_fp32: dict[str, Any] | None = None
    """A reduced precision beside PyTorch in fp32."""
    same_rounding: dict[str, Any] | None = None
    """int8 beside PyTorch with the very same rounding."""
    top1_agreement: float = Field(0, ge=0, le=1)
    top1_agreement_at_least: float = Field(0, ge=0, le=1)
    """With 95 % confidence."""
    top1_agreement_at_most: float = Field(1, ge=0, le=1)
    least_agreement: float | None = None
    """What this precision has to agree."""
    flip_count: int = 0
    flips: list[dict[str, Any]] = []
    """Images whose label changed, those with the largest margins."""
    largest_flip_margin: float | None = None
    smallest_margin: float | None = None
    images: int = Field(0, ge=0)
    images_from: str = ""
    batch_sizes: list[int] = []
    threads: int | None = None
    input: str = ""
    stages: dict[str, Any] = {}
    """The error of decoding, preprocessing and network apart."""
    finite: bool = True
    fused: dict[str, int] = {}
    """Fused operators that ran, by kind."""
    fusion_check: str = ""
    executed_nodes: int | None = None
    form: dict[str, Any] = {}
    """How the graph is written: precision, what is rounded, what stays fp32."""
    temperature: dict[str, Any] | None = None
    """A temperature of the graph's own, where one was tried."""
    metrics: dict[str, dict[str, float | None]] = {}
    """Accuracy, likelihood and calibration: the reference's, the graph's, the change."""
    reference_accuracy: float | None = None
    seconds: dict[str, float] = {}


class ParityFile(BaseModel):
    """Content of ``parity.json``."""

    model_config = ConfigDict(extra="allow", strict=True)

    results: dict[str, dict[str, ParityEntry]]
    """An entry for each precision and provider."""
    provider: str = ""
    """That the graphs were made for, and chosen on where that was searched."""
    reference: str = ""
    """What was compared with, in words."""
    tried: list[dict[str, Any]] = []
    """Forms that were measured on validation images before one was chosen."""


def read_parity(content: bytes) -> dict[str, Any]:
    """The content as it was written.

    Raises:
        ValueError: no JSON, or entries of another form.
    """
    parsed: dict[str, Any] = read_json(content)
    ParityFile.model_validate(parsed)
    return parsed


def write_parity(folder: Path, content: dict[str, Any]) -> None:
    """Write the file into a bundle's folder, if it is as the schema says."""
    ParityFile.model_validate(content)
    write_json(folder / PARITY, content)
