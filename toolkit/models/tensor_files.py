"""safetensors files whose failures speak: a full disk is an OSError, damage is told apart from absence."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors in one file.

    Raises:
        OSError: the disk is full or not writable; safetensors itself has no class of its own for that.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(_reason(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`save_tensors` wrote, onto the CPU.

    Raises:
        OSError: not there.
        ValueError: truncated, or no safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """The system's words without the library's around them."""
    return " ".join(str(error).split()).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
