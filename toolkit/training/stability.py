"""Stop at the first loss or gradient that is not finite, and say where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from toolkit.data.labelled_image import LabelledImage
from toolkit.errors import ToolkitError
from toolkit.runs.run_folder import RunFolder
from toolkit.training.batch_schedule import MicroBatch
from toolkit.training.checkpoints import checkpoints_in
from toolkit.training.processes import AllRanks

MAX_SKIPPED = 20
"""Steps in a row that a gradient scaler may skip while it looks for a scale."""


class NonFiniteGuard:
    """Looks at each step's losses and gradient norm; on CUDA one step late, so that the device never idles for it."""

    def __init__(self, run: RunFolder, root: Path, examples: Sequence[LabelledImage], agreement: AllRanks) -> None:
        self.run, self.root, self.examples, self.agreement = run, root, examples, agreement
        self._last: _Step | None = None
        self._suspect: _Step | None = None

    def saw_trouble(
        self, step: int, batches: list[MicroBatch], losses: list[Tensor], norm: Tensor, *, norm_may_overflow: bool
    ) -> bool:
        """Take note of a step; whether the newest step whose outcome is known has something that is not finite.

        Args:
            step: optimiser step.
            batches: its micro-batches in this process.
            losses: for each, the losses of its images [B].
            norm: of the whole gradient, the same in all processes.
            norm_may_overflow: a gradient scaler skips such a step and lowers its scale.
        """
        total = torch.stack([loss.sum() for loss in losses]).sum()
        finite = torch.isfinite(total) if norm_may_overflow else torch.isfinite(total) & torch.isfinite(norm)
        self._suspect, self._last = self._last, _Step(step, batches, losses, norm, finite)
        if not finite.is_cuda:
            self._suspect = self._last
        return self._suspect is not None and not self._suspect.is_finite()

    def saw_trouble_at_last(self) -> bool:
        """The same of the newest step of all; waits for the device."""
        self._suspect = self._last
        return self._last is not None and not self._last.is_finite()

    def fail(self) -> None:
        """Raise, in all processes, with the step, the images and the last good checkpoint."""
        assert self._suspect is not None
        step, norm = self._suspect.step, float(self._suspect.norm)
        values = self._suspect.values()
        mine = [(index, value) for index, value in values if not math.isfinite(value)]
        bad = [entry for theirs in self.agreement.gathered(mine) for entry in theirs]
        everyone = [index for theirs in self.agreement.gathered([index for index, _ in values]) for index in theirs]
        if bad:
            what = f"the loss is {bad[0][1]} at step {step} for {self._named([index for index, _ in bad])}"
        else:
            what = f"the gradient's norm is {norm} at step {step}, whose images were {self._named(everyone)}"
        raise unstable(what, self.run)

    def _named(self, indices: list[int]) -> str:
        paths = [self.examples[index].path for index in sorted(set(indices))]
        names = [str(path.relative_to(self.root) if path.is_relative_to(self.root) else path) for path in paths]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return ", ".join(names[:5]) + more


class FlagOnItsWay:
    """One bool that a device computes; what is queued behind it goes on while the host asks for it."""

    def __init__(self, flag: Tensor) -> None:
        self._flag, self._copied = flag, None
        if flag.is_cuda:
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def arrived(self) -> bool:
        """Its value; waits until the device has come as far as where it was made, and no further."""
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._flag)


class _Step:
    """A step's losses, and whether they are finite, on its way from the device."""

    def __init__(
        self, step: int, batches: list[MicroBatch], losses: list[Tensor], norm: Tensor, finite: Tensor
    ) -> None:
        self.step, self.batches, self.losses, self.norm = step, batches, losses, norm
        self._finite = FlagOnItsWay(finite)

    def is_finite(self) -> bool:
        return self._finite.arrived()

    def values(self) -> list[tuple[int, float]]:
        """(index, loss) of each image."""
        return [
            (index, value)
            for batch, loss in zip(self.batches, self.losses, strict=True)
            for index, value in zip(batch.indices, loss.tolist(), strict=True)
        ]


def unstable(what: str, run: RunFolder) -> ToolkitError:
    """The error of a run that left the finite numbers."""
    good = checkpoints_in(run.checkpoints)
    last = f"the last good checkpoint is {good[-1].name}" if good else "there is no checkpoint yet"
    fix = f"{last}; lower training.learning_rate, or train with mixed_precision: bf16 or no"
    return ToolkitError(what, where=run.path, fix=fix, everywhere=True)
