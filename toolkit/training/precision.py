"""Which precisions this device trains in; an unfit one is refused before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import AORecipeKwargs

from toolkit.errors import ToolkitError

WHERE = "training.mixed_precision"
FP8_CAPABILITY = (8, 9)
"""CUDA compute capability from which there are fp8 matmuls: Ada, Hopper and later."""


def check_precision(precision: str) -> None:
    """Refuse a precision that this device has no arithmetic for.

    Raises:
        ToolkitError: fp16 without a GPU; bf16 or fp8 on a GPU without it; fp8 without torchao.
    """
    other = "use training.mixed_precision=bf16 or no"
    if precision == "fp16" and not torch.accelerator.is_available():
        raise ToolkitError("fp16 training needs a GPU", where=WHERE, fix=other)
    if (
        precision == "bf16"
        and torch.cuda.is_available()
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ToolkitError("this GPU has no bf16", where=WHERE, fix="use training.mixed_precision=fp16 or no")
    if precision == "fp8":
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
        if capability is None or capability < FP8_CAPABILITY:
            have = "there is no CUDA device" if capability is None else f"this one has {_dotted(capability)}"
            what = f"fp8 training needs a CUDA device of capability {_dotted(FP8_CAPABILITY)} or later; {have}"
            raise ToolkitError(what, where=WHERE, fix=other)
        if find_spec("torchao") is None:
            raise ToolkitError("fp8 training needs torchao", where=WHERE, fix="pip install torchao")


def check_sharded(precision: str, *, sharded: bool) -> None:
    """Refuse fp16 with weights in shards.

    A gradient scaler must skip a step in all processes or in none; the one that torch has for FSDP is version 1's, and
    nobody has seen it do so on version 2's tensors. bf16 needs none.

    Raises:
        ToolkitError: fp16 with FSDP.
    """
    if sharded and precision == "fp16":
        what = "fp16 with weights in shards (FSDP) has no gradient scaler that was proven"
        raise ToolkitError(what, where=WHERE, fix="use training.mixed_precision=bf16, or launch without FSDP")


def precision_handlers(precision: str) -> list[Any]:
    """What Accelerate needs to know of a precision: fp8 matmuls are made by torchao."""
    return [AORecipeKwargs()] if precision == "fp8" else []


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
