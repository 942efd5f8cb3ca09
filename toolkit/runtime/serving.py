"""``serving.json``: how a bundle is to be served, chosen by measurement (``toolkit tune``)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.runtime.machine import usable_cores
from toolkit.runtime.precision import Precision, Provider
from toolkit.runtime.reduced_jpeg import ReducedJpeg

SERVING = "serving.json"


SessionOption = Literal["session.intra_op.allow_spinning", "session.inter_op.allow_spinning"]
ProviderOption = Literal["cudnn_conv_algo_search", "trt_builder_optimization_level"]
"""What a bundle may set: how kernels are chosen. How they round is the graph's, and paths are the host's alone."""


class Expected(BaseModel):
    """What was measured of the choice: latencies of a request in milliseconds, images a second, accuracy."""

    model_config = ConfigDict(allow_inf_nan=False)

    p50_ms: float
    p99_ms: float
    p99_ms_at_most: float
    """Upper end of p99's 95 % interval."""
    throughput_ips: float
    """Of all sessions, batches that are ready in memory."""
    files_ips: float | None = None
    """What ``predict`` gives, from encoded files to labels; None in files of older versions."""
    accuracy_drop: float
    """Percentage points of accuracy lost against the reference, on held-out images."""
    accuracy_drop_interval: tuple[float, float]
    accuracy_drop_at_most: float | None = None
    """What is lost at most, with 95 % confidence (one-sided); files of older versions don't say it."""


class Budget(BaseModel):
    """What was asked for."""

    model_config = ConfigDict(allow_inf_nan=False)

    p99_ms: float = Field(gt=0)
    max_accuracy_drop: float = Field(ge=0)
    rate: float | None = Field(None, gt=0)
    """Images a second that arrive at random."""


class Serving(BaseModel):
    """Content of ``serving.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    provider: Provider
    precision: Precision
    threads: int = Field(ge=1, le=1024)
    """Threads of one session."""
    sessions: int = Field(1, ge=1, le=1024)
    """Sessions that work side by side."""
    batch_size: int = Field(1, ge=1, le=65536)
    """Most images that a session takes at once; TensorRT's engine is built for it."""
    session_options: dict[SessionOption, str] = {}
    """Entries of ONNX Runtime's session configuration."""
    provider_options: dict[ProviderOption, str] = {}
    reduced_jpeg: ReducedJpeg | None = None
    """JPEGs are decoded at the scale that the network needs, and what proved that; None decodes them in full."""
    expected: Expected
    budget: Budget
    machine: dict[str, Any]
    """Where it was measured."""

    def threads_here(self) -> int:
        """Threads for a session that works alone: those of all sessions, but no more than this machine has cores."""
        return min(self.sessions * self.threads, usable_cores())
