"""The loss of images with several labels: binary cross-entropy of each label, weighted, or asymmetric."""

# B batch, N images, C labels

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import ToolkitError
from toolkit.recipe.training import TrainingConfig
from toolkit.tasks.loss import Mixed


class LabelSetLoss(nn.Module):
    """Loss of each image, summed over the labels.

    Of a label with probability p: ``-w (1 - p)^gamma_positive log p`` where the image shows it, else
    ``-q^gamma_negative log(1 - q)`` with ``q = max(p - clip, 0)``. All of them 0 and w 1 is the binary cross-entropy.

    Args:
        config: ``positive_gamma``, ``negative_gamma`` and ``negative_clip``.
        weights: w, of the images that show a label [C]; 1 if None.

    Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (2021), equations 4 to 7.
    """

    weights: Tensor | None

    def __init__(self, config: TrainingConfig, weights: Tensor | None = None) -> None:
        super().__init__()
        self.positive_gamma, self.negative_gamma = config.positive_gamma, config.negative_gamma
        self.clip = config.negative_clip
        self.register_buffer("weights", weights)

    def forward(self, logits_BC: Tensor, labels_BC: Tensor, mix: Mixed | None = None) -> Tensor:
        """Losses [B]; of a mixed image, labels count by their shares."""
        there_BC = (labels_BC > 0).to(logits_BC.dtype)
        if mix is not None:
            there_BC = mix.share * there_BC + (1 - mix.share) * there_BC[mix.partners]
        return (there_BC * self._shown(logits_BC) + (1 - there_BC) * self._absent(logits_BC)).sum(-1)

    def _shown(self, logits_BC: Tensor) -> Tensor:
        loss_BC = -functional.logsigmoid(logits_BC)
        if self.positive_gamma:
            loss_BC = loss_BC * torch.exp(self.positive_gamma * functional.logsigmoid(-logits_BC))
        return loss_BC if self.weights is None else loss_BC * self.weights

    def _absent(self, logits_BC: Tensor) -> Tensor:
        if not self.clip:
            loss_BC = -functional.logsigmoid(-logits_BC)
            return loss_BC * torch.exp(self.negative_gamma * functional.logsigmoid(logits_BC))
        # below the clip there is neither loss nor slope; a power of 0 would have an infinite one
        above_BC = (torch.sigmoid(logits_BC) - self.clip).clamp(min=torch.finfo(logits_BC.dtype).tiny)
        loss_BC = -torch.log1p(-above_BC)
        return loss_BC * above_BC**self.negative_gamma if self.negative_gamma else loss_BC


def positive_weights(
    chosen: str | Mapping[str, float] | None, labels: Sequence[str], shown: Tensor, device: torch.device
) -> Tensor | None:
    """Weights of the images that show a label [C].

    Args:
        chosen: ``balanced`` for as much weight in all as the images have that don't show it, a weight a label, or None.
        labels: in order.
        shown: which labels the training images show [N, C].
        device: where the weights go.

    Raises:
        ToolkitError: weights that name other labels than the data set's, or a label that every image shows, to balance.
    """
    if chosen is None:
        return None
    if isinstance(chosen, str):
        images = (shown > 0).sum(0).double()
        everywhere = [name for name, count in zip(labels, images.tolist(), strict=True) if count == len(shown)]
        if everywhere:
            what = f"every training image shows {', '.join(everywhere)}, so nothing balances it"
            fix = "leave the label out of data.columns.labels, or give a weight a label"
            raise ToolkitError(what, where="training.class_weights", fix=fix)
        return ((len(shown) - images) / images).float().to(device)
    if set(chosen) != set(labels):
        odd = ", ".join(sorted(set(chosen) ^ set(labels)))
        fix = f"give one weight a label ({', '.join(labels)}), or balanced"
        raise ToolkitError(f"class weights and labels differ in: {odd}", where="training.class_weights", fix=fix)
    return torch.tensor([chosen[name] for name in labels], dtype=torch.float32, device=device)
