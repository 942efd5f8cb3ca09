"""Mixup and cutmix: training on mixtures of two images of a micro-batch and of their labels."""

# B batch, H height, W width

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toolkit.recipe.training import TrainingConfig
from toolkit.training.batch_schedule import MicroBatch

MIXING = 1
"""Tells the random numbers of mixing from those of dropout."""


@dataclass(frozen=True)
class Mix:
    """How one micro-batch is mixed: a function of seed, epoch and place in the epoch alone."""

    partners: list[int]
    """For each image, the place of the one that is mixed in."""
    share: float
    """Of an image's own label: with mixup at least a half, with cutmix whatever the window leaves."""
    box: tuple[int, int, int, int] | None = None
    """With cutmix the window (top, left, bottom, right) that comes from the partner; with mixup None."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Mix images [B, 3, H, W], or with mixup what any layer made of them [B, ...]."""
        others = inputs[self.partners]
        if self.box is None:
            return torch.lerp(others, inputs, self.share)
        top, left, bottom, right = self.box
        mixed = inputs.clone()
        mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        return mixed

    def dominant(self, labels_B: Tensor) -> Tensor:
        """Each image's label of the larger share [B]."""
        return labels_B if self.share >= 0.5 else labels_B[self.partners]


class Mixing:
    """Draws a mix for each micro-batch.

    Source: Zhang et al., "mixup" (2018), the larger share to the image itself, which swaps partners at most; Yun et
    al., "CutMix" (2019), algorithm A1: the window's centre is drawn over the whole image and what lies outside is cut
    off, so that borders and corners are replaced too; mixing what a layer made of the images rather than the images is
    Verma et al., "Manifold Mixup" (2019).

    Args:
        config: the parameters of both, and the seed.
        size: (height, width) of the images.
    """

    def __init__(self, config: TrainingConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size

    def __call__(self, batch: MicroBatch) -> Mix | None:
        """The mix of a micro-batch; None where nothing is mixed."""
        config = self.config
        kinds = [kind for kind in ("mixup", "cutmix") if getattr(config, kind)]
        if not kinds or len(batch.indices) < 2:
            return None
        rng = np.random.default_rng((config.seed, batch.epoch, batch.number, MIXING))
        kind = kinds[int(rng.integers(len(kinds)))]
        alpha = getattr(config, kind)
        share = float(rng.beta(alpha, alpha))
        partners = rng.permutation(len(batch.indices)).tolist()
        if kind == "mixup":
            return Mix(partners, max(share, 1 - share))
        (top, bottom), (left, right) = (_span(side, math.sqrt(1 - share), rng) for side in self.size)
        area = (bottom - top) * (right - left) / math.prod(self.size)
        return Mix(partners, 1 - area, (top, left, bottom, right))


def _span(side: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Start and end of a share of a side around a centre drawn evenly, cut off at the ends of the side."""
    length, centre = int(side * share), int(rng.integers(side))
    start = centre - length // 2
    return max(0, start), min(side, start + length)
