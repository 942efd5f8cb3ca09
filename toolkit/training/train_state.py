"""Where a run stands, and how that gets into a checkpoint and out again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.models.tensor_files import listed
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.averaging import RunningAverage
from toolkit.training.batch_schedule import MicroBatch
from toolkit.training.checkpoints import (
    AVERAGE,
    EPOCH,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    check_tensors,
    checkpoints_in,
    damaged,
    optimizer_state,
    read_checkpoint,
    restore,
    trainable_state,
    write_checkpoint,
)
from toolkit.training.processes import on_main_process
from toolkit.training.progress import console
from toolkit.training.stability import unstable
from toolkit.training.trunk import Trunk


@dataclass
class TrainState:
    """How far a run is: what a checkpoint keeps beside weights and moments."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Optimiser steps that are done."""
    scheduled: int = 0
    """Those of them that the learning rate's schedule counts: all but the ones a gradient scaler left out."""
    steps_of_epoch: int = 0
    """Those of them that belong to the epoch under way."""
    batches_per_step: int = 1
    """Micro-batches of a step over all processes, which a run keeps when it goes on with another number of them."""
    skipped: int = 0
    """Steps in a row that the gradient scaler left out."""
    best_epoch: int = 0
    best_score: tuple[float, float] | None = None
    """What :func:`toolkit.training.metrics.score_by` said of the best epoch."""
    stop_asked: bool = field(default=False, metadata={"transient": True})
    time_shares: dict[str, float] = field(default_factory=dict, metadata={"transient": True})

    def end_epoch(self, epoch: int, score: tuple[float, float]) -> bool:
        """Count an epoch; whether validation got better."""
        self.epoch, self.steps_of_epoch = epoch, 0
        better = self.best_score is None or score > tuple(self.best_score)
        if better:
            self.best_epoch, self.best_score = epoch, score
        return better

    def lasting(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("transient")}

    @classmethod
    def restored(cls, content: Any, path: Path) -> TrainState:
        """What :meth:`lasting` gave, read from a checkpoint.

        Raises:
            ToolkitError: entries are missing, unknown, or no counts.
        """
        names = cls().lasting()
        if not isinstance(content, dict) or content.keys() != names.keys():
            given = content if isinstance(content, dict) else {}
            other = sorted(names.keys() ^ given.keys())
            raise damaged(path, f"{STATE} does not say where the run stands: {listed(other)}")
        wrong = [name for name, value in content.items() if name != "best_score" and type(value) is not int]
        score = content["best_score"]
        if score is not None and not (isinstance(score, list) and all(isinstance(each, float) for each in score)):
            wrong.append("best_score")
        if wrong:
            raise damaged(path, f"{STATE}: {listed(wrong)} must be a number")
        return cls(**content)


class EpochRecord:
    """Loss and hit at each place of the epoch under way, in the process that computed them."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.losses, self.hits = (torch.zeros(images, device=device) for _ in range(2))

    def note(self, batch: MicroBatch, loss_B: Tensor, hits_B: Tensor) -> None:
        """Keep a micro-batch's outcome, unless it only kept the other processes company."""
        if batch.counts:
            self.losses[batch.places] = loss_B
            self.hits[batch.places] = hits_B

    def gathered(self, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
        """Losses and hits [images] in the epoch's order, zero where it has not come yet; the same in every process."""
        losses, hits = accelerator.reduce(torch.stack([self.losses, self.hits]), "sum").cpu()
        return losses, hits

    def clear(self) -> None:
        """Begin an epoch."""
        self.losses.zero_()
        self.hits.zero_()


class CheckpointManager:
    """Writes checkpoints of a run, and reads the newest one."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        data: DataSource,
        model: nn.Module,
        optimizer: Any,
        accelerator: Accelerator,
        average: RunningAverage | None,
        trunk: Trunk | None = None,
    ) -> None:
        self.run, self.recipe, self.data, self.average = run, recipe, data, average
        self.optimizer, self.accelerator, self.trunk = optimizer, accelerator, trunk
        self.model = accelerator.unwrap_model(model)

    def save(self, state: TrainState, record: EpochRecord) -> None:
        """Write a checkpoint; every process takes part, the main one writes.

        Raises:
            ToolkitError: weights that are not finite, or a full disk; the checkpoints before stay.
        """
        losses, hits = record.gathered(self.accelerator)
        tensors = {
            WEIGHTS: trainable_state(self.model),
            OPTIMIZER: optimizer_state(self.model, self.optimizer.optimizer),
            EPOCH: {"losses": losses, "hits": hits},
        }
        if self.average is not None:
            tensors[AVERAGE] = self.average.state()
        bad = [name for name, tensor in tensors[WEIGHTS].items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise unstable(f"weights are not finite after step {state.step}: {', '.join(bad[:3])}", self.run)
        on_main_process(self.accelerator, lambda: self._write(state, tensors))

    def _write(self, state: TrainState, tensors: dict[str, dict[str, Tensor]]) -> None:
        scaler = self.accelerator.scaler
        content = {
            "standing": state.lasting(),
            "recipe": self.recipe.model_dump(mode="json"),
            "belongs_to": self._belongs_to,
            "metrics_lines": self.run.lines_logged(),
            "gradient_scaler": scaler.state_dict() if scaler else None,
            "arithmetic": self._arithmetic(),
        }
        write_checkpoint(self.run.checkpoints, state.step, tensors, content, self.recipe.training.keep_last)

    def restore(self, record: EpochRecord) -> TrainState | None:
        """Put the newest checkpoint back; where the run stands, or None without one.

        Raises:
            ToolkitError: damaged, or of another recipe, data set or trunk.
        """
        names = on_main_process(self.accelerator, lambda: [p.name for p in checkpoints_in(self.run.checkpoints)])
        if not names:
            on_main_process(self.accelerator, lambda: self.run.keep_history(0))
            if self.accelerator.is_main_process:
                console.print(f"no checkpoint in {self.run.path} yet: starting from the beginning", markup=False)
            return None
        path = self.run.checkpoints / names[-1]
        tensors, content = read_checkpoint(path)
        ours = self._belongs_to
        other = [what for what, theirs in content["belongs_to"].items() if theirs != ours.get(what)]
        if not self.recipe.equals(content["recipe"]):
            other.insert(0, "recipe")
        if other:
            fix = "resume with the recipe and the data that wrote it, or start without --resume"
            raise ToolkitError(f"the checkpoint belongs to another {other[0]}", where=path, fix=fix)
        state = TrainState.restored(content["standing"], path)
        if self.average is not None:
            check_tensors(path, AVERAGE, tensors.get(AVERAGE, {}), self.average.parameters)
        losses, hits = record.losses, record.hits
        check_tensors(path, EPOCH, tensors[EPOCH], {"losses": losses, "hits": hits})
        restore(path, tensors, self.model, self.optimizer.optimizer, state.scheduled)
        if self.average is not None:
            self.average.load(tensors[AVERAGE])
        if self.accelerator.is_main_process:  # the other processes' shares are in it already
            record.losses.copy_(tensors[EPOCH]["losses"])
            record.hits.copy_(tensors[EPOCH]["hits"])
        if self.accelerator.scaler and content["gradient_scaler"]:
            self.accelerator.scaler.load_state_dict(content["gradient_scaler"])
        on_main_process(self.accelerator, lambda: self.run.keep_history(content["metrics_lines"]))
        if self.accelerator.is_main_process:
            self._say(path.name, content["arithmetic"])
        return state

    @cached_property
    def _belongs_to(self) -> dict[str, str]:
        """Hashes of what the run learns on, made once: that of the order of a million images takes 0.2 seconds."""
        parts = {"data set": self.data.fingerprint, "order of the images": self.data.order("train")}
        if self.trunk is not None:
            parts["trunk"] = hashlib.sha256(json.dumps(self.trunk.describe(), sort_keys=True).encode()).hexdigest()
        return parts

    def _arithmetic(self) -> dict[str, Any]:
        """What changes a sum's last bits: the same steps, but not to the bit, if one of these differs."""
        return {
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "device": self.accelerator.device.type,
            "torch": torch.__version__,
        }

    def _say(self, name: str, before: dict[str, Any]) -> None:
        now = self._arithmetic()
        changed = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in now if before.get(key) != now[key])
        console.print(f"going on from {name}", markup=False)
        if changed:
            console.print(
                f"[bold yellow]note[/]: {changed}. The steps hold the same images as before; sums may differ in their "
                "last bits"
            )
