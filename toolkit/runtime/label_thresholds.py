"""From which logit on each label of a classifier is said, where an image may have several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from toolkit.runtime.preprocess import Float32

METADATA = "thresholds"
"""Key of a graph's ``metadata_props``."""
DECISIONS = "decisions"
"""The graph's output: bool [batch, classes], whether each label is said."""


class LabelThresholds(BaseModel):
    """Chosen on validation, and part of what a bundle decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cuts: tuple[FiniteFloat | None, ...] = Field(min_length=1)
    """Logits, one a label in the order of the classes: it is said from there on; None for one that is never said.

    Cuts of logits and not of probabilities, since these are compared without rounding: a graph and whoever reads its
    logits decide the same, to the bit. A cut divided by the label's temperature is the log-odds of its probability.
    """

    def array(self) -> Float32:
        """The cuts as the graph holds them, infinite where a label is never said [classes]."""
        return np.array([np.inf if cut is None else cut for cut in self.cuts], np.float32)

    def require(self, labels: Sequence[str]) -> None:
        """Raise :class:`ValueError` unless there is a cut for each label."""
        if len(self.cuts) != len(labels):
            raise ValueError(f"{len(self.cuts)} thresholds, and {len(labels)} labels")
