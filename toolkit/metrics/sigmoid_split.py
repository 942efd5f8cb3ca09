"""The metrics of a split whose classes have probabilities of their own, by the sigmoid."""

# N images, C classes

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from toolkit.metrics.intervals import Array
from toolkit.metrics.split import Integers, SplitScores


class SigmoidSplitScores(SplitScores):
    """As :class:`~toolkit.metrics.split.SplitScores`, with sigmoids for probabilities.

    ``loss`` and ``nll`` are the binary cross-entropy, summed over the classes.
    """

    @cached_property
    def _normalisers(self) -> Array:
        """Classes are ranked by their logits alone [N]."""
        return np.zeros(len(self.labels))

    def log_probabilities(self, classes: Integers) -> Array:
        """Log-probability of one class of each image [N]."""
        chosen = self.logits.gather(1, torch.from_numpy(classes)[:, None]).squeeze(1).double()
        found: Array = torch.nn.functional.logsigmoid(chosen / self.temperature).numpy()
        return found

    def likeliest(self, count: int) -> tuple[Integers, Array]:
        """The likeliest classes of each image and their probabilities, both [N, count]."""
        top = self.logits.topk(count, -1)
        return top.indices.numpy(), torch.sigmoid(top.values.double() / self.temperature).numpy()

    @cached_property
    def losses(self) -> Array:
        """Binary cross-entropy of each image [N]."""
        scaled, answers = self.logits.double() / self.temperature, torch.from_numpy(self.labels)
        targets = torch.nn.functional.one_hot(answers, self.classes).double()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scaled, targets, reduction="none")
        found: Array = losses.sum(-1).numpy()
        return found
