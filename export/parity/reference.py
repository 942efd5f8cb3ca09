"""What parity compares with: the unpatched PyTorch model and the training-time image processor."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.graph.given import given
from export.graph.preprocessing import PIXEL_VALUES
from export.parity.float64 import in_float64
from export.precision.trunk import boundary_of, open_trunk
from toolkit.data.labelled_image import LabelledImage
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.models.text_inputs import text_inputs
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import Feed, Inputs, batches_of, examples_in, part_of
from toolkit.runtime.preprocess import Float32
from toolkit.sampling import evenly_spaced

BATCH_SIZE = 32
OTHER_BATCH_SIZE = 7
NOISE_IMAGES = (8, 64)
"""Fewest and most images on which PyTorch is compared with itself."""
NOISE_SHARE = 32
"""Between these, one in so many of those that parity compares: the largest difference grows with their number."""


class Reference:
    """transformers' own forward pass in fp32, the head, and the image processor that training used.

    Where the run learned on a trunk in a reduced precision, that trunk stands before the layers that learned.
    """

    def __init__(self, run: Run) -> None:
        self.classifier, self.processor, self.decision = run.classifier, run.processor, run.decision
        self.trunk = open_trunk(run.classifier, preprocess_from(run.processor), run.trunk) if run.trunk else None
        self.boundary = boundary_of(run.classifier, run.trunk) if run.trunk else 0
        self.texts = text_inputs(run.classifier.encoder)
        self._known: dict[bytes, Float32] = {}

    def inputs(self, samples: Iterable[LabelledImage]) -> Feed:
        """What training's own processor and tokenizer make of samples, one by one: ``pixel_values`` of images, and of
        texts ``input_ids`` and ``attention_mask``.
        """
        made, texts = list[Float32](), list[str | None]()
        for sample in samples:
            if self.takes_images:
                made.append(self.processor(images=[sample.decode()], return_tensors="np")["pixel_values"])
            texts.append(sample.text)
        feed: dict[str, Any] = {PIXEL_VALUES: np.concatenate(made)} if made else {}
        return feed if self.texts is None else feed | {name: rows.numpy() for name, rows in self.texts(texts).items()}

    @property
    def takes_images(self) -> bool:
        """Whether images are among what the classifier takes."""
        return self.texts is None or not self.texts.alone

    def logits(self, feed: Feed, batch_size: int = BATCH_SIZE) -> Float32:
        """Logits [images, classes] in fp32."""
        logits: Float32 = self._logits(self.classifier, feed, batch_size).numpy()
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
        parts = (given(self.classifier, part) for part in batches_of(feed, BATCH_SIZE))
        logits: Float32 = torch.cat([self.classifier.reference_logits(part) for part in parts]).numpy()
        return logits

    @torch.inference_mode()
    def _logits(
        self, classifier: Classifier, feed: Feed, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Logits in a precision, the classifier's own."""
        if self.trunk is None:
            run: Callable[[Any], torch.Tensor] = classifier.reference_logits
        else:
            trunk = self.trunk

            def run(part: torch.Tensor) -> torch.Tensor:
                hidden: torch.Tensor = classifier(trunk(part).to(dtype), start=self.boundary)
                return hidden

        return torch.cat([run(given(classifier, part, dtype)) for part in batches_of(feed, batch_size)])

    def embeddings(self, feed: Feed) -> Float32:
        """Embeddings [images, P] in fp32, by transformers' own forward pass."""
        encoder, inputs = self.classifier.encoder, given(self.classifier, feed)
        with torch.inference_mode():
            if self.trunk is not None:
                hidden = self.trunk(inputs)
                return (encoder(hidden, self.boundary) if self.boundary < len(encoder.groups) else hidden).numpy()
            return encoder.reference(inputs).numpy()

    def truth(self, feed: Feed) -> npt.NDArray[np.float64]:
        """Logits [images, classes] in float64: what all roundings are measured against."""
        double = torch.float64
        if self.trunk is not None:  # the layers behind it run in parts, not as modules
            return self._logits(copy.deepcopy(self.classifier).double(), feed, BATCH_SIZE, double).numpy()
        with in_float64(self.classifier):
            return self._logits(self.classifier, feed, BATCH_SIZE, double).numpy()


def _digest(inputs: Inputs) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(np.ascontiguousarray(inputs[name]).data)
    return digest.digest()


def noise_places(images: int) -> list[int]:
    """Places of those images, of so many, on which PyTorch is compared with itself."""
    fewest, most = NOISE_IMAGES
    return evenly_spaced(images, min(max(images // NOISE_SHARE, fewest), most)).tolist()


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
