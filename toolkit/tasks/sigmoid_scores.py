"""One label an image, and a probability of its own for each class, as SigLIP was trained.

Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023), section 3.2.
"""

# B batch, N images, C classes

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import ToolkitError
from toolkit.recipe.training import TrainingConfig
from toolkit.runtime.decision import LargestScore
from toolkit.tasks.loss import Mixed
from toolkit.tasks.task import SingleLabel
from toolkit.tasks.temperature import fit_temperature, temperature_interval


class SigmoidLoss(nn.Module):
    """Binary cross-entropy of each class, summed over the classes."""

    def forward(self, logits_BC: Tensor, labels_B: Tensor, mix: Mixed | None = None) -> Tensor:
        """Losses [B]; of a mixed image, the mean of both labels' by their shares."""
        target_BC = functional.one_hot(labels_B, logits_BC.shape[-1]).to(logits_BC.dtype)
        if mix is not None:
            target_BC = mix.share * target_BC + (1 - mix.share) * target_BC[mix.partners]
        return functional.binary_cross_entropy_with_logits(logits_BC, target_BC, reduction="none").sum(-1)


class SigmoidScores(SingleLabel):
    """The class with the largest logit; probabilities by the sigmoid, which need not come to 1."""

    decision = LargestScore()
    activation = "sigmoid"

    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        """Binary cross-entropy.

        Raises:
            ToolkitError: smoothing, weights or focusing, which are for the softmax.
        """
        asked = [key for key in ("label_smoothing", "class_weights", "focal_gamma") if getattr(config, key)]
        if asked:
            what = f"model.task {self.name} takes no {' and no '.join(asked)}"
            raise ToolkitError(what, where=f"training.{asked[0]}", fix="leave it out, or use model.task=single-label")
        return SigmoidLoss()

    def temperature(self, logits: Tensor, labels: Tensor, prior: float = 1.0) -> float:
        """Of the yes or no of every class: the sigmoid of a logit is the softmax of it and 0."""
        return fit_temperature(*_yes_or_no(logits, labels), prior)

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """The 95 % interval of it."""
        return temperature_interval(*_yes_or_no(logits, labels))


def _yes_or_no(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C] and [N] -> logits [N * C, 2] of no and yes, and which of them is right [N * C]."""
    yes = logits.flatten()
    answers = functional.one_hot(labels, logits.shape[-1]).flatten()
    return torch.stack([torch.zeros_like(yes), yes], dim=1), answers
