"""The metrics of a split whose classes have probabilities of their own, by the sigmoid."""

# N images, C classes

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.special import expit

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
        return -np.logaddexp(0.0, -self._logits_of(classes) / self.temperature)

    def likeliest(self, count: int) -> tuple[Integers, Array]:
        """The likeliest classes of each image and their probabilities, both [N, count]."""
        classes, logits = self._top(count)
        return classes, expit(logits / self.temperature)

    @cached_property
    def losses(self) -> Array:
        """Binary cross-entropy of each image [N]."""
        absent = np.logaddexp(0.0, self.logits.astype(np.float64) / self.temperature)
        absent[np.arange(len(self.labels)), self.labels] = -self.log_probabilities(self.labels)
        losses: Array = absent.sum(-1)
        return losses
