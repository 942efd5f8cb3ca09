"""A contract on a graph: what it may lose against PyTorch, and how much faster than fp32 it has to be.

Both losses are judged by the upper ends of their confidence intervals, and the speed by its lower end: a config keeps
the contract where the images and the runs show that it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from export.parity.agreement import CONFIDENCE, Verdict, agreement, verdict
from toolkit.errors import ToolkitError
from toolkit.metrics.intervals import Drop, images_needed, paired_drop
from toolkit.runtime.decision import Decision
from toolkit.runtime.preprocess import Float32

VERDICTS: Final[tuple[Verdict, ...]] = ("kept", "undecided", "over")
"""From good to bad."""
TIMES_NEEDED = 2
"""Images that are looked at, in those that could show the contract if none were decided otherwise."""
FEWEST_IMAGES, MOST_IMAGES = 256, 1500


@dataclass(frozen=True)
class Loss:
    """What a graph loses against PyTorch in fp32 on the same images."""

    images: int
    drop: Drop
    """Share of right images that is lost."""
    flips: float
    """Share of images that are decided otherwise than PyTorch decides."""
    flips_at_most: float
    """The bound that it stays below with 95 % confidence, one-sided."""

    def as_json(self) -> dict[str, Any]:
        """For ``parity.json``: points and percent."""
        return {
            "images": self.images,
            "accuracy_drop": 100 * self.drop.value,
            "accuracy_drop_interval": [100 * end for end in self.drop.interval],
            "accuracy_drop_at_most": 100 * self.drop.at_most,
            "flips": 100 * self.flips,
            "flips_at_most": 100 * self.flips_at_most,
        }


@dataclass(frozen=True)
class Contract:
    """What a graph has to keep."""

    max_accuracy_drop: float
    """Percentage points of accuracy that may be lost against PyTorch in fp32."""
    max_flips: float | None = None
    """Percent of images that may be decided otherwise than PyTorch decides; None bounds them by the accuracy alone."""
    min_speedup: float | None = None
    """Times as fast as the fp32 graph at batch 1; None asks for no speed."""

    def check(self) -> None:
        """Raise :class:`ToolkitError` unless it can be kept by something."""
        for name, share, unit in (
            ("--max-flips", self.max_flips, "% of images"),
            ("--max-accuracy-drop", self.max_accuracy_drop, "points"),
        ):
            if share is not None and not 0 <= share <= 100:
                raise ToolkitError(f"{share:g} {unit} can't be kept", where=name, fix="give 0 to 100")
        if self.min_speedup is not None and not 0 < self.min_speedup < math.inf:
            what = f"{self.min_speedup:g} times as fast as fp32 is no speed"
            raise ToolkitError(what, where="--min-speedup", fix="give more than 0, such as 2.5")

    def in_words(self) -> str:
        """All its bounds."""
        said = [f"at most {self.max_accuracy_drop:g} points lost"]
        if self.max_flips is not None:
            said.append(f"at most {self.max_flips:g} % of decisions flipped")
        if self.min_speedup is not None:
            said.append(f"at least {self.min_speedup:g}x as fast as fp32")
        return ", ".join(said)

    def as_json(self) -> dict[str, Any]:
        """For ``parity.json``."""
        return {
            "max_accuracy_drop": self.max_accuracy_drop,
            "max_flips": self.max_flips,
            "min_speedup": self.min_speedup,
        }

    @property
    def needed_images(self) -> int:
        """So many images, none of which is decided otherwise, show that the losses are kept."""
        shares = [share / 100 for share in (self.max_accuracy_drop, self.max_flips) if share is not None]
        return max(map(images_needed, shares))

    @property
    def images(self) -> int:
        """Validation images that are looked at, where there are as many."""
        return min(max(TIMES_NEEDED * self.needed_images, FEWEST_IMAGES), MOST_IMAGES)

    def verdict(self, precision: str, loss: Loss) -> Verdict:
        """Whether the losses are kept; fp32 does PyTorch's arithmetic, so that its estimates stand for their bounds."""
        found = [verdict(precision, 100 * loss.drop.value, 100 * loss.drop.at_most, self.max_accuracy_drop)]
        if self.max_flips is not None:
            found.append(verdict(precision, 100 * loss.flips, 100 * loss.flips_at_most, self.max_flips))
        return max(found, key=VERDICTS.index)

    def fast_enough(self, at_least: float) -> bool:
        """Whether a lower bound of how many times as fast as fp32 a config is keeps what is asked for."""
        return self.min_speedup is None or at_least >= self.min_speedup


def loss_in_words(found: Mapping[str, Any]) -> str:
    """Both losses with their bounds, of what :meth:`Loss.as_json` says."""
    return (
        f"{found['flips']:.2f} % of decisions flipped (at most {found['flips_at_most']:.2f} %), "
        f"{found['accuracy_drop']:.2f} points lost (at most {found['accuracy_drop_at_most']:.2f})"
    )


def loss_of(
    decision: Decision,
    expected: Float32,
    logits: Float32,
    labels: npt.NDArray[Any] | None,
    groups: Sequence[str] | None,
) -> Loss:
    """What is lost from PyTorch's logits to a graph's, both [images, classes].

    Args:
        decision: what production makes of logits.
        expected: PyTorch's in fp32.
        logits: the graph's, finite.
        labels: of the images; without them PyTorch's decisions are the right ones.
        groups: of the images, whose decisions flip together; None where all are independent.
    """
    answers = decision.decide(expected) if labels is None else labels
    drop = paired_drop(decision.right(expected, answers), decision.right(logits, answers), groups)
    same = agreement(decision, expected, logits, [""] * len(expected), groups)
    return Loss(len(expected), drop, 1 - same["top1_agreement"], 1 - same["top1_agreement_at_least"])


def speedup_of(reference: Sequence[float], blocks: Sequence[float]) -> tuple[float, float]:
    """How many times as fast something is, and at least with 95 % confidence (one-sided).

    Neighbouring blocks saw the same state of the machine, so their ratios are what scatters (Student's t on the
    logarithms).

    Args:
        reference: median times of its blocks.
        blocks: those of the other's blocks, each beside the reference's of the same turn.
    """
    ratios = np.log(np.array(reference) / np.array(blocks))
    error = float(ratios.std(ddof=1)) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.inf
    mean = float(ratios.mean())
    reach = float(stdtrit(len(ratios) - 1, CONFIDENCE)) * error if math.isfinite(error) else math.inf
    return math.exp(mean), math.exp(mean - reach)
