"""Where the activations at the boundary come from: the image files through the trunk, or the cache."""

# B batch

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from toolkit.data.dataset import Key, Loader
from toolkit.training.batch_schedule import MicroBatch
from toolkit.training.boundary_cache import CachedSplit
from toolkit.training.mixing import Mixing
from toolkit.training.stopwatch import Stopwatch

Item = TypeVar("Item")


class ActivationSource(Protocol):
    """Gives each micro-batch its activations and labels [B], on the device.

    Activations are a tensor [B, ...], or for several towers a dictionary of such.
    """

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Any, Tensor]]:
        """Feed micro-batches in order, and count the time that it takes."""


class PixelSource:
    """Reads, preprocesses and mixes images, and runs them through ``trunk`` if there is one."""

    def __init__(
        self,
        loader: Loader,
        trunk: Callable[[Any], Any] | None,
        device: torch.device,
        mixing: Mixing | None = None,
    ) -> None:
        self.loader, self.trunk, self.device, self.mixing = loader, trunk, device, mixing

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Any, Tensor]]:
        """Feed micro-batches from their files."""
        read: deque[MicroBatch] = deque()  # the loader's workers are some batches ahead

        def keys() -> Iterator[list[Key]]:
            for batch in batches:
                read.append(batch)
                yield [(batch.epoch, index) for index in batch.indices]

        loaded = self.loader.read(keys())
        while True:
            asked = time.perf_counter()
            batch = next(loaded, None)
            waited = time.perf_counter() - asked
            if batch is None:
                return
            if self.loader.workers:
                watch.worker_seconds += batch["seconds"]
                watch.add("data_wait", waited)
            else:
                watch.add("preprocessing", batch["seconds"])
                watch.add("data_wait", waited - batch["seconds"])
            inputs = {name: values.to(self.device, non_blocking=True) for name, values in batch["inputs"].items()}
            hidden: Any = inputs["pixel_values"] if set(inputs) == {"pixel_values"} else inputs
            labels = batch["labels"].to(self.device, non_blocking=True)
            micro_batch = read.popleft()
            mix = self.mixing(micro_batch) if self.mixing else None
            if mix is not None:
                hidden = mix(hidden)
            if self.trunk is not None:
                with torch.no_grad(), watch.on_device("trunk"):
                    hidden = self.trunk(hidden)
            yield hidden, labels


class CacheFeed:
    """Reads what the trunk gave when the cache was filled; for a GPU one batch ahead, from pinned memory."""

    def __init__(self, split: CachedSplit, labels: list[int], device: torch.device) -> None:
        self.split, self.device = split, device
        self.labels = torch.tensor(labels)

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Feed micro-batches from the cache, always as float32."""
        rows = map(self._rows, batches)
        read = one_ahead(rows) if self.device.type == "cuda" else rows
        while True:
            asked = time.perf_counter()
            found = next(read, None)
            watch.add("data_wait", time.perf_counter() - asked)
            if found is None:
                return
            hidden, labels = found
            yield hidden.to(self.device, non_blocking=True).float(), labels.to(self.device, non_blocking=True)

    def _rows(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """A micro-batch in host memory, which a GPU copies from by itself."""
        hidden, labels = self.split.rows(batch.epoch, batch.indices), self.labels[batch.indices]
        if self.device.type == "cuda":
            hidden, labels = hidden.pin_memory(), labels.pin_memory()
        return hidden, labels


class ResidentFeed:
    """The same rows as :class:`CacheFeed` gives, from the memory of the device, where all of them lie."""

    def __init__(self, split: CachedSplit, labels: list[int], device: torch.device) -> None:
        self.split, self.device = split, device
        self._rows, self._labels = split.all_rows(device), torch.tensor(labels, device=device)

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Feed micro-batches, always as float32; nothing waits for data."""
        for batch in batches:
            indices = torch.tensor(batch.indices)
            if self.device.type == "cuda":
                indices = indices.pin_memory()
            indices = indices.to(self.device, non_blocking=True)
            yield self._rows[self.split.view_of(batch.epoch)][indices].float(), self._labels[indices]


def cached_source(split: CachedSplit, labels: list[int], device: torch.device, *, resident: bool) -> ActivationSource:
    """Rows from the device's memory where they are to lie there and there is room by then, else from the cache.

    What was free when that was decided may have been taken since, as by another run on the same GPU.
    """
    if resident:
        with suppress(torch.OutOfMemoryError):
            return ResidentFeed(split, labels, device)
    return CacheFeed(split, labels, device)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = thread.submit(next, items, None)
            yield item
