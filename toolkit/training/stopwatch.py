"""Where an epoch's time goes, and what would help."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.recipe.training import TrainingConfig

STAGES = ("data_wait", "preprocessing", "trunk", "trainable", "optimizer")
"""Waiting for the loader or the cache; decoding and preprocessing in this very process; the frozen
groups; forward and backward of what learns; clipping and the optimiser."""


class Stopwatch:
    """Seconds an epoch spends in each stage.

    On CUDA the stages' kernels are timed by events on the stream, so nothing waits for them
    until the epoch's end; waiting for data is the host's time and may overlap with them, so that
    the shares can sum to more than one.
    """

    def __init__(self, device: torch.device) -> None:
        self.started = time.perf_counter()
        self.images = 0
        """Over all processes."""
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

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.jsonl`` says of an epoch's time: the keys in :data:`toolkit.runs.run_folder.TIMES`."""
        if self._events:
            torch.cuda.synchronize()
            for stage, start, end in self._events:
                self._seconds[stage] += start.elapsed_time(end) / 1000
            self._events.clear()
        elapsed = self.elapsed
        shares = {stage: self._seconds[stage] / elapsed for stage in STAGES}
        return {
            "epoch_seconds": elapsed,
            "images_per_second": self.images / elapsed,
            "data_wait_share": shares["data_wait"] + shares["preprocessing"],
            "time_shares": shares | {"other": max(0.0, 1 - sum(shares.values()))},
            "worker_seconds": self.worker_seconds,
        }


def advice(
    shares: dict[str, float], config: TrainingConfig, *, cacheable: bool, workers: int, cores: int, on_gpu: bool
) -> str:
    """One sentence: where most of an epoch's time went, and what would help.

    Args:
        shares: ``time_shares`` of the last training epoch.
        config: how it was trained.
        cacheable: whether there is a frozen trunk to cache.
        workers: worker processes of the loader.
        cores: cores that this process may use.
        on_gpu: whether the cores are free for reading.
    """
    waiting, trunk, cache = shares["data_wait"] + shares["preprocessing"], shares["trunk"], config.boundary_cache
    steps = shares["other"] + shares["optimizer"]
    if not cache.enabled and cacheable and waiting + trunk > 0.25:
        return (
            f"{waiting:.0%} of the time went into reading images and {trunk:.0%} into the frozen trunk: "
            "training.boundary_cache.enabled=true does both once instead of in every epoch"
        )
    if waiting > 0.25 and cache.enabled:
        smaller = "training.boundary_cache.dtype=fp16 halves it, or " if cache.dtype == "fp32" else ""
        faster = f"{smaller}training.boundary_cache.dir on a faster disk would help"
        return f"{waiting:.0%} of the time went into reading the cache: {faster}"
    if waiting > 0.25:
        more = on_gpu and cores > workers + 1
        help_ = (
            f"training.loader_workers={cores - 1} reads faster" if more else "smaller files or more cores would help"
        )
        return f"{waiting:.0%} of the time went into waiting for images: {help_}"
    if steps > 0.5:
        return f"{steps:.0%} of the time went into what each step costs anyway: a larger training.batch_size would help"
    precision = " or mixed_precision: bf16 on a device that has it" if config.mixed_precision == "no" else ""
    return (
        f"{shares['trainable']:.0%} of the time went into the groups that learn: "
        f"fewer of them, more processes{precision} would help"
    )
