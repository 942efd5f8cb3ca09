"""Temperature scaling: one number, fitted on validation, that makes probabilities honest.

A validation split that is (nearly) all right would be likeliest at a temperature of 0, whatever the true one. So the
fit is drawn towards the temperature that the classifier has, by two priors: ``PSEUDO_IMAGES`` images whose labels
follow the classifier's own probabilities, and a normal prior of the temperature's logarithm. Hundreds of images that
say otherwise outweigh them. ``benchmarks/uncertainty.py`` measures what that does to the loss of other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from torch import Tensor

from toolkit.sampling import evenly_spaced

PSEUDO_IMAGES = 30
SPREAD = 0.5
"""Standard deviation of the prior of the temperature's logarithm."""
FARTHEST = 20.0
"""Largest logarithm of a temperature that is looked for; the priors keep every fit far within."""
CELLS = 20_000_000
"""Images times classes that a fit reads at most; evenly spread images of a larger split."""
FEW_ERRORS = 5
"""With fewer errors than this a split says little about confidence."""
LogProbabilities = Callable[[Tensor, float], Tensor]
"""Logits [images, classes] and one over a temperature to the classes' log-probabilities."""


def log_softmax_of(logits: Tensor, factor: float) -> Tensor:
    """Log-probabilities [images, classes]: the softmax's of the logits times the factor."""
    return torch.log_softmax(logits * factor, -1)


def fit_temperature(
    logits: Tensor, labels: Tensor, prior: float = 1.0, log_p: LogProbabilities = log_softmax_of
) -> float:
    """The temperature that makes a split's labels likeliest, given what was believed before.

    Args:
        logits: [images, classes].
        labels: [images].
        prior: the temperature that is kept where the split tells nothing.
        log_p: what a temperature makes of logits; with another one than the softmax's ``prior`` is 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2; the maximum of a posterior in
    place of the likelihood's.
    """
    return prior * math.exp(_fit(*_scaled(logits, labels, prior), log_p)[0])


def temperature_interval(
    logits: Tensor, labels: Tensor, prior: float = 1.0, log_p: LogProbabilities = log_softmax_of
) -> tuple[float, float]:
    """The 95 % interval of the temperature, by the curvature of the posterior at its maximum."""
    log_temperature, error = _fit(*_scaled(logits, labels, prior), log_p)
    reach = float(ndtri(0.975)) * error
    return prior * math.exp(log_temperature - reach), prior * math.exp(log_temperature + reach)


def temperature_note(temperature: float, interval: tuple[float, float], errors: int, images: int) -> str:
    """A sentence where validation says little about confidence; empty where it says enough."""
    low, high = interval
    if errors >= FEW_ERRORS and high / low < 2:
        return ""
    wrong = "no error" if errors == 0 else "1 error" if errors == 1 else f"{errors} errors"
    return (
        f"{images:,} validation images with {wrong} tell little about confidence: the temperature is "
        f"{temperature:.2f}, but anything from {low:.2f} to {high:.2f} fits them"
    )


def _scaled(logits: Tensor, labels: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """Logits over the prior temperature in double precision, and labels, of so many images as a fit reads."""
    images, most = len(labels), max(1, CELLS // logits.shape[1])
    if images > most:
        places = torch.from_numpy(evenly_spaced(images, most))
        logits, labels = logits[places], labels[places]
    return logits.double() / prior, labels


def _fit(logits: Tensor, labels: Tensor, log_p_of: LogProbabilities) -> tuple[float, float]:
    """Logarithm of the likeliest temperature, and its standard error."""
    own = torch.softmax(logits, -1)
    pseudo = PSEUDO_IMAGES / len(labels)

    def cost(log_temperature: float) -> float:
        """Negative logarithm of the posterior."""
        log_p = log_p_of(logits, math.exp(-log_temperature))
        seen = torch.nn.functional.nll_loss(log_p, labels, reduction="sum")
        believed = -torch.where(own > 0, own * log_p, 0.0).sum()
        return float(seen + pseudo * believed) + (log_temperature / SPREAD) ** 2 / 2

    found = minimize_scalar(cost, bounds=(-FARTHEST, FARTHEST), method="bounded", options={"xatol": 1e-6})
    best = float(found.x)
    step = 0.02
    curvature = (cost(best + step) - 2 * cost(best) + cost(best - step)) / step**2
    return best, 1 / math.sqrt(max(curvature, 1 / SPREAD**2))
