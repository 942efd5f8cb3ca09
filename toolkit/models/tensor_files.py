"""safetensors files whose failures speak: a full disk is an OSError, damage is told apart from absence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

NAMED = 3
"""Names that a message spells out of a longer list."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors in one file.

    Raises:
        OSError: the disk is full or not writable; safetensors itself has no class of its own for that.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(reason_of(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`save_tensors` wrote, onto the CPU.

    Raises:
        OSError: not there.
        ValueError: truncated, or no safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(reason_of(error)) from error


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What tells tensors of a file from those that are to be filled with them; empty where nothing does.

    Args:
        found: the file's.
        wanted: with the names, shapes and types that are to be there; their values don't count.

    Returns:
        The first of these that there is, with names and their number: tensors that are missing, that have no
        place, of another shape or type, or with values that are not finite.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        return f"{len(missing)} of {len(wanted)} tensors are missing: {listed(missing)}"
    extra = [name for name in found if name not in wanted]
    if extra:
        return f"{len(extra)} tensors have no place: {listed(extra)}"
    shapes = [
        f"{name} is {list(tensor.shape)}, not {list(wanted[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != wanted[name].shape
    ]
    if shapes:
        return f"{len(shapes)} of {len(wanted)} tensors have another shape: {listed(shapes)}"
    types = [
        f"{name} is {_plain(tensor.dtype)}, not {_plain(wanted[name].dtype)}"
        for name, tensor in found.items()
        if tensor.dtype != wanted[name].dtype
    ]
    if types:
        return f"{len(types)} of {len(wanted)} tensors have another type: {listed(types)}"
    bad = not_finite(found)
    return f"{len(bad)} of {len(wanted)} tensors hold values that are not finite: {listed(bad)}" if bad else ""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or an infinity."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def reason_of(error: Exception) -> str:
    """The system's words without the library's around them."""
    reason = " ".join(str(error).split())
    for words in ("Error while serializing: ", "Error while deserializing header: ", "I/O error: "):
        reason = reason.removeprefix(words)
    return reason


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
