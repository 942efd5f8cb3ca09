"""One label an image, of classes that have an order, such as grades.

The head answers for each class but the last: given that the image lies no lower, does it lie beyond? The classes'
probabilities are products of these answers, so that they come to 1 and the odds of lying beyond a class fall from one
to the next, whatever the weights are. Minus the logarithm of the label's probability is, but for a constant factor, the
loss of Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
Probabilities" (CORN, 2021), who found smaller distances with it than with shared weights (CORAL, Cao, Mirjalili and
Raschka, 2020); the model itself is the continuation-ratio model (Fienberg, 1980).
"""

# B batch, N images, K classes

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.ordered import log_probabilities
from toolkit.runtime.decision import MedianClass
from toolkit.tasks.task import SingleLabel
from toolkit.tasks.temperature import fit_temperature, temperature_interval


class Ordinal(SingleLabel):
    """The median class; its logits [B, K] are log-probabilities, whose cross-entropy is the loss."""

    decision = MedianClass()
    activation = "cumulative"
    head = "conditional"

    def temperature(self, logits: Tensor, labels: Tensor, prior: float = 1.0) -> float:
        """The temperature of the log-odds of lying beyond each class."""
        return prior * fit_temperature(_log_p(logits, 1 / prior), labels, log_p=_log_p)

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """The 95 % interval of it."""
        return temperature_interval(_log_p(logits, 1.0), labels, log_p=_log_p)

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether the median class is the label, without a copy to the host."""
        return (_log_odds_beyond(logits) > 0).sum(-1) == labels

    def probabilities(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Calibrated probabilities [B, K]: differences of those of lying beyond each class."""
        beyond = torch.sigmoid(_log_odds_beyond(logits) / temperature)
        before = torch.nn.functional.pad(beyond, (1, 0), value=1.0)
        return (before - torch.nn.functional.pad(beyond, (0, 1))).clamp(min=0)

    def order_of(self, classes: Sequence[str], *, given: bool) -> str:
        """The classes from the first to the last.

        Raises:
            ToolkitError: names that no recipe put in order, and that are no whole numbers.
        """
        unordered = [name for name in classes if not (name.isascii() and name.isdigit())]
        if unordered and not given:
            what = f"model.task {self.name} needs an order of the classes, and {unordered[0]!r} is no whole number"
            fix = "write all classes from the first to the last grade: data.classes='[" + ", ".join(classes) + "]'"
            raise ToolkitError(what, where="data.classes", fix=fix)
        return f"order of the classes: {' < '.join(classes)} ({'data.classes' if given else 'by value'})"


def _log_p(logits: Tensor, factor: float) -> Tensor:
    """Log-probabilities [N, K], the log-odds of lying beyond each class times the factor."""
    return torch.from_numpy(log_probabilities(logits.numpy(), 1 / factor))


def _log_odds_beyond(logits: Tensor) -> Tensor:
    """Log-odds of lying beyond each class but the last [B, K - 1]."""
    up_to = logits.logcumsumexp(-1)
    from_here = logits.flip(-1).logcumsumexp(-1).flip(-1)
    return from_here[:, 1:] - up_to[:, :-1]
