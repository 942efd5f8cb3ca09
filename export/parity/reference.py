"""What parity compares with: the unpatched PyTorch model and the training-time image processor."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from export.graph.preprocessing import PIXEL_VALUES
from export.parity.float64 import in_float64
from export.precision.trunk import boundary_of, open_trunk
from toolkit.data.source import LabelledImage
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import Feed, Inputs, examples_in, part_of
from toolkit.runtime.preprocess import Float32

BATCH_SIZE = 32
OTHER_BATCH_SIZE = 7
NOISE_IMAGES = 8
"""Images on which PyTorch is compared with itself."""


def groups_of(images: Sequence[LabelledImage]) -> list[str] | None:
    """Each image's group; None where they have none."""
    groups = [image.group for image in images]
    return groups if any(groups) else None


class Reference:
    """transformers' own forward pass in fp32, the head, and the image processor that training used.

    Where the run learned on a trunk in a reduced precision, that trunk stands before the layers that learned.
    """

    def __init__(self, run: Run) -> None:
        self.classifier, self.processor, self.decision = run.classifier, run.processor, run.decision
        self.trunk = open_trunk(run.classifier, preprocess_from(run.processor), run.trunk) if run.trunk else None
        self.boundary = boundary_of(run.classifier, run.trunk) if run.trunk else 0
        self._known: dict[bytes, Float32] = {}

    def inputs(self, images: Iterable[Image.Image]) -> Feed:
        """``pixel_values`` [images, 3, height, width] by the training-time processor, one by one."""
        made = [self.processor(images=[image], return_tensors="np")["pixel_values"] for image in images]
        return {PIXEL_VALUES: np.concatenate(made)}

    def logits(self, feed: Feed, batch_size: int = BATCH_SIZE) -> Float32:
        """Logits [images, classes] in fp32."""
        logits: Float32 = self._logits(self.classifier, torch.from_numpy(feed[PIXEL_VALUES]), batch_size).numpy()
        return logits

    def known_logits(self, feed: Feed) -> Float32:
        """:meth:`logits`, computed once for an image: each precision and the golden files are held against them."""
        keys = [_digest(part_of(feed, place)) for place in range(examples_in(feed))]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        if new:
            computed = self.logits({name: values[list(new.values())] for name, values in feed.items()})
            self._known |= dict(zip(new, computed, strict=True))
        return np.stack([self._known[key] for key in keys])

    @torch.inference_mode()
    def without_trunk(self, feed: Feed) -> Float32:
        """Logits [images, classes] of transformers' forward pass in fp32 from the pixels on."""
        parts = torch.from_numpy(feed[PIXEL_VALUES]).split(BATCH_SIZE)
        logits: Float32 = torch.cat([self.classifier.reference_logits(part) for part in parts]).numpy()
        return logits

    @torch.inference_mode()
    def _logits(self, classifier: Classifier, pixel_values: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Logits in the classifier's own precision."""
        if self.trunk is None:
            run: Callable[[torch.Tensor], torch.Tensor] = classifier.reference_logits
        else:
            trunk, dtype = self.trunk, pixel_values.dtype

            def run(part: torch.Tensor) -> torch.Tensor:
                return classifier(trunk(part).to(dtype), start=self.boundary)

        return torch.cat([run(part) for part in pixel_values.split(batch_size)])

    def embeddings(self, feed: Feed) -> Float32:
        """Embeddings [images, P] in fp32, by transformers' own forward pass."""
        encoder, pixel_values = self.classifier.encoder, feed[PIXEL_VALUES]
        with torch.inference_mode():
            if self.trunk is not None:
                hidden = self.trunk(torch.from_numpy(pixel_values))
                return (encoder(hidden, self.boundary) if self.boundary < len(encoder.groups) else hidden).numpy()
            return encoder.family.embed(encoder.model, torch.from_numpy(pixel_values)).numpy()

    def truth(self, feed: Feed) -> npt.NDArray[np.float64]:
        """Logits [images, classes] in float64: what all roundings are measured against."""
        pixel_values = torch.from_numpy(feed[PIXEL_VALUES]).double()
        if self.trunk is not None:  # the layers behind it run in parts, not as modules
            return self._logits(copy.deepcopy(self.classifier).double(), pixel_values, BATCH_SIZE).numpy()
        with in_float64(self.classifier):
            return self._logits(self.classifier, pixel_values, BATCH_SIZE).numpy()


def _digest(inputs: Inputs) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(np.ascontiguousarray(inputs[name]).data)
    return digest.digest()


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


def noise_floor(reference: Reference, feed: Feed, expected: Float32) -> NoiseFloor:
    """Measure the noise floor on a few images, whose fp32 logits are ``expected``."""
    truth = reference.truth(feed)
    with one_thread():
        reordered = reference.logits(feed, OTHER_BATCH_SIZE)
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
