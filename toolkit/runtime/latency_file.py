"""``latency.json``: its schema, checked when it is written and before it is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolkit.files import write_json

LATENCY = "latency.json"
SHIPPED = ("onnxruntime", "openvino")
"""Engines that run the shipped graphs; all others are what these are compared with."""


class LatencyRow(BaseModel):
    """What was counted of an engine at a batch size; files of other versions may hold more or less."""

    model_config = ConfigDict(extra="allow")

    engine: str
    provider: str
    precision: str
    batch_size: int
    scenario: str = "SingleStream"
    p50_ms: float = Field(gt=0)
    p90_ms: float | None = None
    p99_ms: float = Field(gt=0)
    throughput_ips: float = Field(gt=0)
    """Images a second."""
    intervals: dict[str, tuple[float, float] | None] = {}
    """The 95 % interval of each percentile."""
    runs: int | None = None
    warmup_runs: int | None = None
    warmup_seconds: float | None = None
    steady: bool | None = None
    """Whether the warm-up reached a steady value; None if it was too short to tell."""
    threads: int | None
    share_of_ceiling: float | None = None
    """Of the rate that the matmuls alone reach on this machine."""


class Machine(BaseModel):
    """Where it was measured."""

    model_config = ConfigDict(extra="allow")

    processor: str
    throttled: list[str] = []
    """Sentences about what slowed the machine down meanwhile."""


class LatencyFile(BaseModel):
    """Content of ``latency.json``."""

    model_config = ConfigDict(extra="allow")

    rows: list[LatencyRow]
    machine: Machine
    graphs: dict[str, str] | None = None
    """SHA-256 of each precision's graph."""
    inputs: dict[str, Any] = {}
    """What the batches were drawn from."""
    skipped: list[dict[str, Any]] = []
    """What did not fit in memory."""
    cold_start: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    request: list[dict[str, Any]] = []
    """The steps of a request from the encoded file to the label."""
    operators: list[dict[str, Any]] = []
    """What the graph of a request spends on each part and operator, on the CPU."""
    nodes: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    """Operations of the graph, and the machine's ceilings."""
    scenarios: dict[str, Any] = {}
    serving: dict[str, Any] | None = None
    """The tuned configuration, measured again."""
    created: str | None = None


def write_latency(file: Path, content: dict[str, Any]) -> None:
    """Write the file, if it is as the schema says."""
    LatencyFile.model_validate(content)
    write_json(file, content)
