"""Checkpoints at any optimiser step: what learns, the optimiser's moments, and where the run stands.

The order of the images, their augmentation and the dropout are functions of (seed, epoch,
step), so there is no random state to save, or to fail to restore. safetensors and JSON only;
every file's hash stands in ``state.json``, and that file's own under its first key, ``checksum``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, sha256_of, staged_folder, write_json
from toolkit.models.tensor_files import difference, load_tensors, save_tensors
from toolkit.regular_files import read_settings
from toolkit.strict_json import read_json

FORMAT = 3
WEIGHTS, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
EPOCH, STATE = "epoch.safetensors", "state.json"
ENTRIES = ("standing", "recipe", "belongs_to", "metrics_lines", "gradient_scaler", "arithmetic")
"""Of ``state.json``, beside format, step and hashes."""


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters that learn, whole and on the CPU. Every process must call it if the model is sharded."""
    return {
        name: whole(parameter.detach()).to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as ``parameter.moment``, whole and on the CPU."""
    return {
        f"{name}.{moment}": whole(tensor).to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for moment, tensor in optimizer.state[parameter].items()
    }


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all processes if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write_checkpoint(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    keep_last: int,
) -> Path:
    """Write ``step-00001234`` atomically and durably, then remove all but the last few.

    Args:
        folder: the run's checkpoints.
        step: optimiser steps done.
        tensors: for each of the safetensors files, what it holds.
        state: the rest, as JSON.
        keep_last: how many checkpoints stay.

    Raises:
        ToolkitError: the disk is full or not writable; the checkpoints before are as they were.
    """
    target = folder / f"step-{step:08d}"
    with (
        explain_os_errors(target),
        staged_folder(target, what="checkpoint", marker=STATE, replace=True, durable=True) as stage,
    ):
        for name, content in tensors.items():
            save_tensors(stage / name, content)
        content = state | {
            "format": FORMAT,
            "step": step,
            "sha256": {name: sha256_of(stage / name) for name in tensors},
        }
        write_json(stage / STATE, {"checksum": _checksum(content)} | content)
    for old in checkpoints_in(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of each file, and the state, of a checkpoint that is whole.

    Raises:
        ToolkitError: truncated, changed, incomplete, or of another format.
    """
    try:
        state: dict[str, Any] = read_json(read_settings(path / STATE), finite=False)
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} holds no JSON object")
        checksum = state.pop("checksum")
        if state.get("format") != FORMAT:
            raise ValueError(f"format {state.get('format')}, where this version reads {FORMAT}")
        if checksum != _checksum(state):
            raise ValueError(f"{STATE} has been changed")
        for name, expected in state["sha256"].items():
            if sha256_of(path / name) != expected:
                raise ValueError(f"{name} is not what was written")
        lacking = [
            *(name for name in (WEIGHTS, OPTIMIZER, EPOCH) if name not in state["sha256"]),
            *(f"{name} in {STATE}" for name in ENTRIES if name not in state),
        ]
        if lacking:
            raise ValueError(f"{', '.join(lacking)} missing")
        return {name: load_tensors(path / name) for name in state["sha256"]}, state
    except KeyError as error:
        raise damaged(path, f"{error.args[0]} in {STATE} missing") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> ToolkitError:
    """That a checkpoint can't be gone on from, and what to do."""
    before = [other.name for other in checkpoints_in(path.parent) if other.name < path.name]
    fix = (
        f"remove this folder to go on from {before[-1]}" if before else "remove this folder to start from the beginning"
    )
    return ToolkitError(f"damaged checkpoint: {reason}", where=path, fix=fix)


def check_tensors(path: Path, file: str, found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Compare a checkpoint's tensors with what they are to fill: names, shapes, types and finite values.

    Raises:
        ToolkitError: they differ, with names and their number.
    """
    wrong = difference(found, wanted)
    if wrong:
        raise damaged(path, f"{file}: {wrong}")


def restore(
    path: Path, tensors: dict[str, dict[str, Tensor]], model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> None:
    """Put a checkpoint's tensors into a model and its optimiser.

    Args:
        path: the checkpoint, for messages.
        tensors: what :func:`read_checkpoint` gave.
        model: whose trainable parameters are set.
        optimizer: AdamW over them.
        steps: that the optimiser took before the checkpoint; there are moments after the first.

    Raises:
        ToolkitError: written by a run with other trainable parameters, or with moments that are not theirs.
    """
    weights, moments = tensors[WEIGHTS], tensors[OPTIMIZER]
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if {name: tensor.shape for name, tensor in weights.items()} != {name: p.shape for name, p in trainable.items()}:
        fix = "resume with the recipe that wrote it (recipe.yaml in the run folder)"
        raise ToolkitError("the checkpoint has other trainable parameters than the recipe", where=path, fix=fix)
    check_tensors(path, WEIGHTS, weights, trainable)
    check_tensors(path, OPTIMIZER, moments, _moments_of(trainable) if steps else {})
    places = {parameter: name for name, parameter in trainable.items()}
    with torch.no_grad():
        for name, tensor in weights.items():
            trainable[name].copy_(like(trainable[name], tensor))
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(order):
        prefix = f"{places[parameter]}."
        mine = {key[len(prefix) :]: tensor for key, tensor in moments.items() if key.rpartition(".")[0] + "." == prefix}
        if mine:  # none before the first step
            state[index] = {
                name: tensor if tensor.ndim == 0 else like(parameter, tensor) for name, tensor in mine.items()
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments_of(trainable: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names, shapes and types of AdamW's moments, without values."""
    wanted: dict[str, Tensor] = {}
    for name, parameter in trainable.items():
        wanted[f"{name}.step"] = torch.empty((), dtype=torch.float32, device="meta")
        for moment in ("exp_avg", "exp_avg_sq"):
            wanted[f"{name}.{moment}"] = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    return wanted


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor on a parameter's device, sharded as the parameter is."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
