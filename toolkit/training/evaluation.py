"""Logits of a whole split, each image counted once whatever the number of processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from toolkit.progress import SILENT, Progress
from toolkit.training.activation_source import ActivationSource
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.stopwatch import Stopwatch


@torch.no_grad()
def predict_split(
    model: nn.Module,
    start: int,
    feed: ActivationSource,
    plan: BatchSchedule,
    classes: int,
    accelerator: Accelerator,
    watch: Stopwatch,
    progress: Progress = SILENT,
) -> Tensor:
    """Logits [images, classes] in the split's order, on the CPU, in every process.

    Args:
        model: a classifier; run from the group ``start`` on what ``feed`` gives.
        start: place of the first group to run.
        feed: where the activations come from.
        plan: the split's order and this process's share of it; an image that a process repeats
            to keep in step with the others doesn't count.
        classes: number of logits.
        accelerator: gathers from all processes.
        watch: takes the times.
        progress: told how many are done.
    """
    model.eval()
    logits = torch.zeros(plan.images, classes, device=accelerator.device)
    batches = [batch for step in plan.steps(epoch=1) for batch in step]
    for done, (batch, (hidden, _)) in enumerate(zip(batches, feed(batches, watch), strict=True), 1):
        with watch.on_device("trainable"):
            rows = model(hidden, start=start).float()
        if batch.counts:
            logits[batch.places] = rows
        progress.done(done, len(batches))
    watch.images += plan.images
    return accelerator.reduce(logits, "sum").cpu()  # each row is zero in all processes but one
