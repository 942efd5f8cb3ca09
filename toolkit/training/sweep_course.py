"""How a trial of a sweep goes on: what its epochs gave, and whether it is pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from toolkit.metrics.split import score_by
from toolkit.progress import Progress
from toolkit.runs.sweep_file import SweepFile
from toolkit.training.sweep_sampling import Drawn


@dataclass
class Course:
    """Told of each epoch of a trial.

    Args:
        sweep: up to the trial.
        drawn: the trial.
        progress: told how it goes on.
    """

    sweep: SweepFile
    drawn: Drawn
    progress: Progress
    epochs: int = 0
    """That it shall have."""
    values: list[float | None] = field(default_factory=list)
    """The metric after each epoch; None where it is not defined."""
    best_epoch: int | None = None
    pruned: str | None = None
    """Why it was."""
    _score: tuple[float, float] = (-math.inf, -math.inf)

    @property
    def value(self) -> float | None:
        """The metric after the best epoch."""
        return None if self.best_epoch is None else self.values[self.best_epoch - 1]

    def after_epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Whether the trial is pruned; see :data:`toolkit.training.trainer.AfterEpoch`."""
        name, score = self.sweep.select_by, score_by(self.sweep.select_by, metrics)
        value = float(metrics[name]) if math.isfinite(score[0]) else None
        self.values.append(value)
        number, trials = len(self.sweep.trials) + 1, self.sweep.trials_wanted
        self.progress.stage(f"trial {number} of {trials}, epoch {epoch} of {self.epochs}")
        if value is None:
            return False
        if score > self._score:
            self._score, self.best_epoch = score, epoch
        if not self.drawn.is_behind(epoch, value) or epoch == self.epochs:
            return False
        best = f"{name} {self.value:.4g} after {epoch} epochs"
        self.pruned = f"{best} is worse than the median of the other trials by then"
        return True
