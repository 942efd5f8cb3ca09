"""What a difference in logits means for decisions: agreement, flips, and the figures that labels give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toolkit.runtime.preprocess import Float32

CONFIDENCE = 0.95
BINS = 15
"""Of the confidence, for the expected calibration error; as in training."""
LISTED_FLIPS = 10


def agreement(expected: Float32, logits: Float32, names: Sequence[str]) -> dict[str, Any]:
    """How often both give the same label.

    Args:
        expected: reference logits [images, classes].
        logits: the graph's logits [images, classes].
        names: of the images.

    Returns:
        ``top1_agreement``; ``top1_agreement_at_least`` and ``top1_agreement_at_most``, its exact
        confidence bounds (Clopper and Pearson, each one-sided, 95 %); ``flips``, the flipped images with the largest
        margins first, a margin being the reference's best logit minus its second; ``flip_count``
        and ``smallest_margin`` over all images.
    """
    from scipy.stats import binomtest  # takes a second to import, which an export without proof needn't wait for

    same = expected.argmax(-1) == logits.argmax(-1)
    margins = _margins(expected)
    bound, most = (
        binomtest(int(same.sum()), len(same), alternative=side).proportion_ci(CONFIDENCE, method="exact")
        for side in ("greater", "less")
    )
    flipped = sorted(np.flatnonzero(~same).tolist(), key=lambda index: -margins[index])
    return {
        "top1_agreement": float(same.mean()),
        "top1_agreement_at_least": float(bound.low),
        "top1_agreement_at_most": float(most.high),
        "flip_count": len(flipped),
        "flips": [{"image": names[index], "margin": float(margins[index])} for index in flipped[:LISTED_FLIPS]],
        "largest_flip_margin": float(margins[flipped[0]]) if flipped else None,
        "smallest_margin": float(margins.min()),
    }


def changes(
    expected: Float32, logits: Float32, labels: Sequence[int], temperature: float, fitted_again: float | None = None
) -> dict[str, dict[str, float]]:
    """Accuracy, negative log-likelihood and calibration error: the reference's, the graph's, and the change.

    The graph's temperature is the reference's unless it was fitted again.
    """
    answers = torch.tensor(labels)
    figures = {
        "a": _figures(expected, answers, temperature),
        "b": _figures(logits, answers, fitted_again or temperature),
    }
    return {
        name: {
            "reference": figures["a"][name],
            "graph": figures["b"][name],
            "change": figures["b"][name] - figures["a"][name],
        }
        for name in figures["a"]
    }


def _margins(logits: Float32) -> Float32:
    best: npt.NDArray[np.float32] = np.sort(logits, axis=-1)[:, -2:]
    return best[:, 1] - best[:, 0]


def _figures(logits: Float32, labels: torch.Tensor, temperature: float) -> dict[str, float]:
    scaled = torch.from_numpy(logits).double() / temperature
    probabilities = scaled.softmax(-1)
    right = (scaled.argmax(-1) == labels).double()
    return {
        "accuracy": float(right.mean()),
        "nll": float(torch.nn.functional.cross_entropy(scaled, labels)),
        "expected_calibration_error": _calibration_error(probabilities.amax(-1), right),
    }


def _calibration_error(confidence: torch.Tensor, right: torch.Tensor) -> float:
    """Mean gap between confidence and accuracy over bins of the confidence (Guo et al., 2017, section 2)."""
    places = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, places, right - confidence)
    return float(gaps.abs().sum() / len(right))
