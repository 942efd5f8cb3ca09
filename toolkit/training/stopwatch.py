"""Where an epoch's time goes, and what would help."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

STAGES = ("data_wait", "preprocessing", "trunk", "trainable", "optimizer")
"""Waiting for the loader or the cache; decoding and preprocessing in this very process; the frozen
groups; forward and backward of what learns; clipping and the optimiser."""


class Stopwatch:
    """Seconds an epoch spends in each stage.

    On CUDA the stages' kernels are timed by events on the stream, so nothing waits for them
    until the epoch's end; waiting for data is the host's time.
    """

    def __init__(self, device: torch.device) -> None:
        self.started = time.perf_counter()
        self.images = 0
        self.worker_seconds = 0.0
        """Decoding and preprocessing by all worker processes, which happens beside the rest."""
        self._on_cuda = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def add(self, stage: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._seconds[stage] += seconds

    @contextmanager
    def on_device(self, stage: str) -> Iterator[None]:
        """Time what the device computes."""
        if self._on_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((stage, start, end))
        else:
            started = time.perf_counter()
            yield
            self._seconds[stage] += time.perf_counter() - started

    def figures(self, processes: int = 1) -> dict[str, Any]:
        """What ``metrics.jsonl`` says of an epoch's time; ``images`` are those of this process."""
        if self._events:
            torch.cuda.synchronize()
            for stage, start, end in self._events:
                self._seconds[stage] += start.elapsed_time(end) / 1000
            self._events.clear()
        elapsed = self.elapsed
        shares = {stage: self._seconds[stage] / elapsed for stage in STAGES}
        return {
            "epoch_seconds": elapsed,
            "images_per_second": self.images * processes / elapsed,
            "data_wait_share": shares["data_wait"] + shares["preprocessing"],
            "time_shares": shares | {"other": max(0.0, 1 - sum(shares.values()))},
            "worker_seconds": self.worker_seconds,
        }


def advice(shares: dict[str, float], *, cached: bool, cacheable: bool, workers: int, cores: int) -> str:
    """One sentence: where most of an epoch's time went, and what would help.

    Args:
        shares: ``time_shares`` of the last training epoch.
        cached: whether the boundary cache was on.
        cacheable: whether there is a frozen trunk to cache.
        workers: worker processes of the loader.
        cores: cores that this process may use.
    """
    waiting, trunk = shares["data_wait"] + shares["preprocessing"], shares["trunk"]
    if not cached and cacheable and waiting + trunk > 0.25:
        return (
            f"{waiting:.0%} of the time went into reading images and {trunk:.0%} into the frozen trunk: "
            "training.boundary_cache.enabled=true does both once instead of in every epoch"
        )
    if waiting > 0.25:
        if cached:
            return (
                f"{waiting:.0%} of the time went into reading the cache: "
                "training.boundary_cache.dtype=fp16 halves it, or put training.boundary_cache.dir on a faster disk"
            )
        if workers and cores > workers + 1:
            more = f"training.loader_workers={cores - 1} reads faster"
            return f"{waiting:.0%} of the time went into waiting for images: {more}"
        return f"{waiting:.0%} of the time went into waiting for images: smaller files or more cores would help"
    if shares["other"] + shares["optimizer"] > 0.5:
        share = shares["other"] + shares["optimizer"]
        return f"{share:.0%} of the time went into what each step costs anyway: a larger training.batch_size would help"
    return (
        f"{shares['trainable']:.0%} of the time went into the groups that learn: "
        "fewer of them, mixed_precision: bf16 on a device that has it, or more processes would help"
    )
