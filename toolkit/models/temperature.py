"""Temperature scaling: one number, fitted on validation, that makes probabilities honest."""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature in [0.05, 20] that minimises the negative log-likelihood of a split.

    Args:
        logits: [images, classes].
        labels: [images].

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
    """
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        scaled = exact / torch.tensor(log_temperature, dtype=torch.float64).exp()
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    bounds = (float(torch.tensor(0.05).log()), float(torch.tensor(20.0).log()))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(torch.tensor(found.x, dtype=torch.float64).exp())
