"""How each task's logits are scored, by the task's name; what trains, proves or evaluates asks here."""

from __future__ import annotations

from toolkit.metrics.ordinal_split import OrdinalSplitScores
from toolkit.metrics.sigmoid_split import SigmoidSplitScores
from toolkit.metrics.split import SplitScores

SCORES: dict[str, type[SplitScores]] = {
    "single-label": SplitScores,
    "sigmoid-scores": SigmoidSplitScores,
    "ordinal": OrdinalSplitScores,
}
