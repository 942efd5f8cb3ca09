"""How each task's logits are scored, by the task's name; what trains, proves or evaluates asks here."""

from __future__ import annotations

from typing import Any, Protocol

from toolkit.metrics.label_sets import LabelSetScores
from toolkit.metrics.number_split import NumberScores
from toolkit.metrics.ordinal_split import OrdinalSplitScores
from toolkit.metrics.sigmoid_split import SigmoidSplitScores
from toolkit.metrics.split import SplitScores


class Scored(Protocol):
    """Makes the scores of a split."""

    def __call__(self, logits: Any, labels: Any, temperature: Any = 1.0, groups: Any = None, /) -> SplitScores:
        """Of logits [N, C], labels, the temperature and each image's group."""


SCORES: dict[str, Scored] = {
    "single-label": SplitScores,
    "sigmoid-scores": SigmoidSplitScores,
    "multi-label": LabelSetScores,
    "ordinal": OrdinalSplitScores,
    "regression": NumberScores,
}
