"""The proof that the shipped graph gives what PyTorch gives, on real held-out images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from toolkit.models.classifier import Classifier
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Session

BATCH_SIZES = (1, 2, 7, 32)
FEWEST_IMAGES = 256
FLOAT64_IMAGES = 32
"""Images on which fp32 is compared with float64."""
TOLERANCE = {"fp32": 1e-4}
"""Largest logit difference that passes, by precision."""


def reference_inputs(processor: Any, images: Iterable[Image.Image]) -> Float32:
    """``pixel_values`` [images, 3, height, width] by the training-time processor, of decoded images."""
    batches = [processor(images=[image], return_tensors="np")["pixel_values"] for image in images]
    return np.concatenate(batches)


@torch.inference_mode()
def reference_logits(classifier: Classifier, pixel_values: Float32, batch_size: int = 32) -> Float32:
    """Logits [images, classes] by the unpatched fp32 model: transformers' own forward pass, and the head."""
    parts = torch.from_numpy(pixel_values).split(batch_size)
    return torch.cat([classifier.reference_logits(part) for part in parts]).numpy()


@torch.inference_mode()
def noise_floor(classifier: Classifier, pixel_values: Float32, expected: Float32) -> float:
    """What fp32 itself leaves open: the largest logit difference of PyTorch to PyTorch.

    The greater of two: one thread and batches of 7 against all threads and batches of 32, and
    fp32 against float64 on the first images.
    """
    with one_thread():
        reordered = np.abs(reference_logits(classifier, pixel_values, batch_size=7) - expected).max()
    exact = copy.deepcopy(classifier).double()
    few = torch.from_numpy(pixel_values[:FLOAT64_IMAGES]).double()
    rounding = np.abs(exact.reference_logits(few).numpy() - expected[:FLOAT64_IMAGES]).max()
    return float(max(reordered, rounding))


def compare(session: Session, pixel_values: Float32, expected: Float32, precision: str, floor: float) -> dict[str, Any]:
    """Run the shipped graph at every batch size and compare with the expected logits.

    Returns:
        The entry of ``parity.json`` for one precision and provider.
    """
    tolerance = TOLERANCE[precision]
    by_batch_size = {}
    worst, total, agreement = 0.0, 0.0, 1.0
    for batch_size in BATCH_SIZES:
        logits, probabilities = session.run_batches(pixel_values, batch_size)
        finite = bool(np.isfinite(logits).all() and np.isfinite(probabilities).all())
        difference = np.abs(logits - expected) if finite else np.full(expected.shape, float(np.finfo(np.float32).max))
        by_batch_size[str(batch_size)] = float(difference.max())
        worst = max(worst, float(difference.max()))
        total += float(difference.mean()) / len(BATCH_SIZES)
        agreement = min(agreement, float((logits.argmax(-1) == expected.argmax(-1)).mean()))
    return {
        "max_abs_logit": worst,
        "mean_abs_logit": total,
        "max_abs_logit_by_batch_size": by_batch_size,
        "top1_agreement": agreement,
        "images": len(pixel_values),
        "batch_sizes": list(BATCH_SIZES),
        "threads": session.threads,
        "tolerance": tolerance,
        "noise_floor": floor,
        "passed": worst <= tolerance and agreement == 1.0,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
