"""A frozen trunk that runs in the precision it will be deployed in, already while the rest learns.

The trunk never changes, so nothing is learnt from its full precision that production has: what
learns is fed the activations that it will get there, and adapts to them. That costs nothing, unlike
quantisation-aware training, since no gradient goes through the trunk.
"""

# B batch

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier


class Trunk(Protocol):
    """Stands for the frozen groups of one classifier."""

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Run ``pixel_values`` [B, 3, height, width] up to the boundary.

        Returns:
            float32 activations [B, ...] as the first group that learns takes them, on the device of the input.
        """

    def describe(self) -> dict[str, Any]:
        """What the activations depend on beside the classifier, as JSON: the run folder's ``trunk.json``."""


def check_trunk_precision(precision: str, classifier: Classifier) -> None:
    """Refuse a precision of a trunk that there is not.

    Raises:
        ToolkitError: no group is frozen in front of the first one that learns.
    """
    if precision != "fp32" and not classifier.boundary:
        fix = "freeze the embeddings and the first layers (model.unfreeze_last), or set training.trunk_precision=fp32"
        what = f"no group is frozen, so there is no trunk to run in {precision}"
        raise ToolkitError(what, where="training.trunk_precision", fix=fix)
