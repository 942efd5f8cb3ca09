"""What an encoder makes of every image of a data set, computed once for all methods, shots and seeds."""

# N images, T tokens, D width, P width of the embedding, C classes

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from toolkit.data.dataset import ImageDataset, Loader
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.fp32 import compute_fp32_fully
from toolkit.models.head import CosineHead
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT, Progress

BATCH_SIZE = 64


@dataclass(frozen=True)
class Features:
    """An encoder, a data set, and what the one makes of the other."""

    encoder: Encoder
    """In eval mode; no method changes it."""
    processor: Any
    data: DataSource
    text_head: CosineHead | None
    """Zero-shot's head; None for an encoder without texts."""
    starts: dict[str, Tensor]
    """Of every split, what the group ``start`` takes: tokens [N, T, D]."""
    start: int
    """Place of the first group that a method may change."""

    @cached_property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return next(self.encoder.parameters()).device

    @cached_property
    def labels(self) -> dict[str, Tensor]:
        """Labels [N] of every split."""
        return {split: torch.as_tensor(self.data.labels(split)) for split in self.data.splits}

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        """What the projection takes [N, D], where the encoder has one; else the embedding."""
        last = len(self.encoder.groups) - (self.encoder.embedding == "projected")
        return {split: self.run(tokens, self.start, last) for split, tokens in self.starts.items()}

    @cached_property
    def embeddings(self) -> dict[str, Tensor]:
        """Embeddings [N, P] of every split."""
        last = len(self.encoder.groups)
        projected = self.encoder.embedding == "projected"
        return {
            split: self.run(pooled, last - 1, last) if projected else pooled for split, pooled in self.pooled.items()
        }

    @torch.inference_mode()
    def run(self, inputs: Tensor, start: int, stop: int, encoder: Encoder | None = None) -> Tensor:
        """What groups ``start`` to ``stop`` of an encoder, this one unless given, make of inputs; on the CPU."""
        used = encoder or self.encoder
        parts = [used(part.to(self.device), start, stop).cpu() for part in inputs.split(BATCH_SIZE)]
        return torch.cat(parts).clone()


def features_of(
    encoder: Encoder,
    processor: Any,
    data: DataSource,
    text_head: CosineHead | None,
    start: int,
    progress: Progress = SILENT,
) -> Features:
    """Read every image and run it up to the group ``start``.

    Raises:
        ToolkitError: images that have no class, but several labels or a number.
    """
    if data.target.kind != "class":
        what, key = "few-shot methods take one class an image", f"data.columns.{data.target.kind}"
        raise ToolkitError(what, where=key, fix="leave it out, or fine-tune with model.task=multi-label")
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    compute_fp32_fully()
    encoder.to(device).eval()
    run: Callable[[Tensor], Tensor] = lambda pixel_values: encoder(pixel_values.to(device), 0, start).cpu()  # noqa: E731
    preprocess, starts = preprocess_from(processor), {}
    for split, examples in data.splits.items():
        progress.stage(f"encoding {split}")
        loader = Loader(ImageDataset(examples, preprocess), workers=0)
        keys = [(0, place) for place in range(len(examples))]
        parts = []
        for batch in loader.read(keys[first : first + BATCH_SIZE] for first in range(0, len(keys), BATCH_SIZE)):
            with torch.inference_mode():
                parts.append(run(batch["inputs"]["pixel_values"]))
            progress.done(min(len(parts) * BATCH_SIZE, len(keys)), len(keys))
        loader.close()
        starts[split] = torch.cat(parts).clone()
    return Features(encoder, processor, data, text_head, starts, start)
