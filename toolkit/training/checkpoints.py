"""Checkpoints at the end of an epoch: what learns, the optimiser's state and where the run stands.

The order of the images, the augmentation and the dropout are functions of (seed, epoch), so
nothing else is needed to go on exactly. safetensors and JSON only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.files import staged_folder, write_json

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters that learn, on the CPU."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep_last: int = 2,
) -> Path:
    """Write ``step-00001234`` atomically and remove all but the last few."""
    target = folder / f"step-{step:08d}"
    with staged_folder(target, what="checkpoint", marker=STATE, replace=True) as stage:
        save_file(trainable_state(model), stage / WEIGHTS)
        moments = optimizer.state_dict()["state"]
        flat = {f"{index}.{name}": tensor for index, entry in moments.items() for name, tensor in entry.items()}
        save_file({name: tensor.cpu().contiguous() for name, tensor in flat.items()}, stage / OPTIMIZER)
        write_json(stage / STATE, state | {"step": step})
    for old in sorted(folder.glob("step-*"))[:-keep_last]:
        shutil.rmtree(old)
    return target


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore a checkpoint into a model and its optimiser; return its state.

    Raises:
        ToolkitError: damaged, or written by a run with other trainable parameters.
    """
    try:
        weights = load_file(path / WEIGHTS)
        flat = load_file(path / OPTIMIZER)
        state: dict[str, Any] = json.loads((path / STATE).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise ToolkitError(
            f"damaged checkpoint: {error}", where=path, fix="remove it and resume from the one before"
        ) from error
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if {name: tensor.shape for name, tensor in weights.items()} != {name: p.shape for name, p in trainable.items()}:
        fix = "resume with the recipe that wrote it (recipe.yaml in the run folder)"
        raise ToolkitError("the checkpoint has other trainable parameters than the recipe", where=path, fix=fix)
    with torch.no_grad():
        for name, tensor in weights.items():
            trainable[name].copy_(tensor)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def latest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run.

    Raises:
        ToolkitError: there is none.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        raise ToolkitError("no checkpoint to resume from", where=folder, fix="start without --resume")
    return found[-1]
