"""How CUDA computes float32."""

from __future__ import annotations

import torch


def compute_fp32_fully() -> None:
    """Have CUDA compute float32 in float32, from now on in this process.

    torch lets convolutions round to TF32's 10 bits of mantissa by default, matmuls not. The patch embedding would
    differ between a GPU and a CPU by a thousand times what their order of summation makes, and nothing would be won:
    it is one layer of many.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def fp32_arithmetic(device: torch.device) -> dict[str, bool]:
    """Whether this process rounds float32 to TF32 on a device, in matmuls and in convolutions; empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "tf32_matmuls": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
    }
