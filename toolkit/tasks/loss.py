"""What is minimised: cross-entropy with smoothed labels, class weights, focusing and mixed labels."""

# B batch, C classes

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import ToolkitError
from toolkit.recipe.training import TrainingConfig


class Mixed(Protocol):
    """How the images of a batch were mixed (:class:`toolkit.training.mixing.Mix`)."""

    @property
    def share(self) -> float:
        """Of an image's own label."""

    @property
    def partners(self) -> list[int]:
        """Place of the image that each was mixed with [B]."""


class Loss(nn.Module):
    """Loss of each image.

    For target shares q over the classes, class weights w and predicted probabilities p it is
    ``-sum_c w_c q_c (1 - p_c)^gamma log p_c``: cross-entropy (gamma 0), with smoothed labels
    (Szegedy et al., "Rethinking the Inception Architecture", 2016), the focal loss (Lin et al.,
    "Focal Loss for Dense Object Detection", 2017), or all of them at once.

    Args:
        config: label smoothing and focusing.
        weights: of the classes [C], or None for equal ones.
    """

    weights: Tensor | None

    def __init__(self, config: TrainingConfig, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing, self.gamma = config.label_smoothing, config.focal_gamma
        self.register_buffer("weights", weights)

    def forward(self, logits_BC: Tensor, labels_B: Tensor, mix: Mixed | None = None) -> Tensor:
        """Losses [B]; of a mixed image, the mean of both labels' by their shares."""
        loss_B = self._of(logits_BC, labels_B)
        if mix is None:
            return loss_B
        return mix.share * loss_B + (1 - mix.share) * self._of(logits_BC, labels_B[mix.partners])

    def _of(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        if not self.gamma:
            return functional.cross_entropy(
                logits_BC, labels_B, self.weights, label_smoothing=self.smoothing, reduction="none"
            )
        classes = logits_BC.shape[-1]
        log_p_BC = functional.log_softmax(logits_BC, dim=-1)
        target_BC = functional.one_hot(labels_B, classes) * (1 - self.smoothing) + self.smoothing / classes
        if self.weights is not None:
            target_BC = target_BC * self.weights
        # a class that is certain has no slope: its power's would be infinite where gamma is below 1
        wrong_BC = -torch.expm1(log_p_BC).clamp(max=-torch.finfo(log_p_BC.dtype).tiny)
        return -(target_BC * wrong_BC**self.gamma * log_p_BC).sum(-1)


def class_weights(
    chosen: str | Mapping[str, float] | None, classes: Sequence[str], labels: Tensor, device: torch.device
) -> Tensor | None:
    """Weights of the classes [C], whose mean over the training images is 1.

    Args:
        chosen: ``balanced`` for the inverse of each class's count, a weight a class, or None.
        classes: all classes in order.
        labels: of the training images.
        device: where the weights go.

    Raises:
        ToolkitError: weights that name other classes than the data set's.
    """
    if chosen is None:
        return None
    counts = labels.bincount(minlength=len(classes)).double()
    if isinstance(chosen, str):
        weights = 1 / counts
    else:
        if set(chosen) != set(classes):
            odd = ", ".join(sorted(set(chosen) ^ set(classes)))
            raise ToolkitError(
                f"class weights and classes differ in: {odd}",
                where="training.class_weights",
                fix=f"give one weight a class ({', '.join(classes)}), or balanced",
            )
        weights = torch.tensor([chosen[name] for name in classes], dtype=torch.float64)
    return (weights * counts.sum() / (weights * counts).sum()).float().to(device)
