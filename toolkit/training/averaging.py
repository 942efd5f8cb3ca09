"""Averages of weights: a running one over the steps (EMA), and one with the pre-trained weights (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.models.classifier import Classifier
from toolkit.training.checkpoints import like, whole

ALPHAS = tuple(step / 10 for step in range(11))
"""Shares of the fine-tuned weights that WiSE-FT tries; 1 is the fine-tuned classifier itself."""


class RunningAverage:
    """An exponential moving average of what learns.

    The decay starts small and grows to the one asked for, ``min(decay, (1 + n) / (10 + n))``
    after n steps, so that the first steps are soon forgotten (TensorFlow's
    ``ExponentialMovingAverage``). Source: Polyak and Juditsky (1992); decay as in Tarvainen and
    Valpola, "Mean teachers" (2017).

    Args:
        model: the classifier, sharded or not.
        decay: share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        """What is averaged, by name."""
        self._average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after so many optimiser steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self._average.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average instead of its weights, until the end of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The average, whole and on the CPU. Every process must call it if the model is sharded."""
        return {name: whole(tensor).to("cpu", copy=True) for name, tensor in self._average.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from an average that :meth:`state` gave."""
        for name, tensor in self._average.items():
            tensor.copy_(like(tensor, state[name]))

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            weights = parameter.clone()
            parameter.copy_(self._average[name])
            self._average[name] = weights


def pretrained_weights(classifier: Classifier, *, head: bool) -> dict[str, Tensor]:
    """Copies of the weights that learn and were pre-trained, by name, on the CPU.

    Args:
        classifier: the encoder's are among them.
        head: whether the head's are, as those of one that starts as text embeddings.
    """
    of = ("encoder.", "head.") if head else ("encoder.",)
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in classifier.named_parameters()
        if parameter.requires_grad and name.startswith(of)
    }


@torch.no_grad()
def interpolate(
    classifier: Classifier, original: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> None:
    """Set the named weights to ``(1 - alpha) * original + alpha * tuned``; all others stay.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (2022), equation 1.
    """
    parameters = dict(classifier.named_parameters())
    for name, start in original.items():
        parameters[name].copy_(tuned[name] if alpha == 1 else torch.lerp(start, tuned[name], alpha))


def choose_alpha(
    classifier: Classifier,
    original: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    metrics_of: Callable[[], dict[str, float]],
    score: Callable[[Mapping[str, float]], tuple[float, ...]],
) -> dict[str, Any]:
    """Put the mean of original and fine-tuned weights into a classifier that is best on validation.

    Args:
        classifier: what is changed.
        original: weights before training.
        tuned: the same after it.
        metrics_of: validation metrics of the classifier as it stands.
        score: what makes metrics better; of equals, the larger share of fine-tuned weights stays.

    Returns:
        ``alpha``, and ``tried``: each share with its metrics.
    """
    tried = []
    for alpha in ALPHAS:
        interpolate(classifier, original, tuned, alpha)
        tried.append({"alpha": alpha} | metrics_of())
    best = max(tried, key=lambda entry: (*score(entry), entry["alpha"]))
    interpolate(classifier, original, tuned, best["alpha"])
    return {"alpha": best["alpha"], "tried": tried}
