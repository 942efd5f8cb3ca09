"""What parity compares with: the unpatched PyTorch model and the training-time image processor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from export.run import Run
from toolkit.data.source import Example
from toolkit.models.classifier import Classifier
from toolkit.runtime.decode import decode
from toolkit.runtime.preprocess import Float32

BATCH_SIZE = 32
OTHER_BATCH_SIZE = 7
NOISE_IMAGES = 8
"""Images on which PyTorch is compared with itself."""


@dataclass(frozen=True)
class Sample:
    """An image of the proof: its name, its encoded content, and its class where that is known."""

    name: str
    read: Callable[[], bytes]
    label: int | None = None

    def decode(self) -> Image.Image:
        """Upright RGB pixels."""
        return decode(self.read(), where=Path(self.name))


def samples_of(examples: Sequence[Example]) -> list[Sample]:
    """A data set's images as samples."""
    return [Sample(str(example.path), example.read, example.label) for example in examples]


class Reference:
    """transformers' own forward pass in fp32, the head, and the image processor that training used."""

    def __init__(self, run: Run) -> None:
        self.classifier, self.processor = run.classifier, run.processor

    def pixel_values(self, images: Sequence[Image.Image]) -> Float32:
        """``pixel_values`` [images, 3, height, width] by the training-time processor, one by one."""
        return np.concatenate([self.processor(images=[image], return_tensors="np")["pixel_values"] for image in images])

    def logits(self, pixel_values: Float32, batch_size: int = BATCH_SIZE) -> Float32:
        """Logits [images, classes] in fp32."""
        return logits_of(self.classifier, torch.from_numpy(pixel_values), batch_size).numpy()

    def embeddings(self, pixel_values: Float32) -> Float32:
        """Embeddings [images, P] in fp32, by transformers' own forward pass."""
        encoder = self.classifier.encoder
        with torch.inference_mode():
            return encoder.family.embed(encoder.model, torch.from_numpy(pixel_values)).numpy()

    def truth(self, pixel_values: Float32) -> npt.NDArray[np.float64]:
        """Logits [images, classes] in float64: what all roundings are measured against."""
        exact = copy.deepcopy(self.classifier).double()
        return logits_of(exact, torch.from_numpy(pixel_values).double(), BATCH_SIZE).numpy()


@torch.inference_mode()
def logits_of(classifier: Classifier, pixel_values: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Logits [images, classes] in the classifier's own precision."""
    return torch.cat([classifier.reference_logits(part) for part in pixel_values.split(batch_size)])


@dataclass(frozen=True)
class NoiseFloor:
    """What fp32 leaves open: the largest logit differences of PyTorch to itself and to float64."""

    reordered: float
    """One thread and other batches, against all threads."""
    rounding: float
    """fp32 against float64."""
    truth: npt.NDArray[np.float64]
    """float64's logits of the images it was measured on."""

    @property
    def largest(self) -> float:
        """The noise floor; never less than fp32 resolves."""
        resolution = float(np.finfo(np.float32).eps * np.abs(self.truth).max())
        return max(self.reordered, self.rounding, resolution)


def noise_floor(reference: Reference, pixel_values: Float32, expected: Float32) -> NoiseFloor:
    """Measure the noise floor on a few images [images, 3, height, width], whose fp32 logits are ``expected``."""
    truth = reference.truth(pixel_values)
    with one_thread():
        reordered = reference.logits(pixel_values, OTHER_BATCH_SIZE)
    return NoiseFloor(float(np.abs(reordered - expected).max()), float(np.abs(expected - truth).max()), truth)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spread(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` indices of ``count`` things, evenly spread."""
    chosen: list[Any] = np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()
    return chosen
