"""Logits of a whole split, each image counted once whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from toolkit.data.dataset import Batch


@torch.inference_mode()
def predict_split(model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Logits [images, classes] and labels [images] in the split's order, on the CPU.

    Loaders for several processes repeat images to fill up their last batches; results are put
    in place by the images' indices, so a repeated one can't count twice.
    """
    model.eval()
    logits, labels, indices = [], [], []
    for batch in batches:
        logits.append(model(batch["pixel_values"]).float())
        labels.append(batch["labels"])
        indices.append(batch["indices"])
    gathered = once_each(accelerator, torch.cat(indices), torch.cat(logits), torch.cat(labels))
    return gathered[0], gathered[1]


def once_each(accelerator: Accelerator, indices: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Gather per-image values from all processes, ordered by index, without repetitions."""
    ordered, order = accelerator.gather(indices).cpu().sort(stable=True)
    first = torch.ones(len(ordered), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return tuple(accelerator.gather(value).cpu()[order[first]] for value in values)
