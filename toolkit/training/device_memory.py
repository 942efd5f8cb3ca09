"""What training takes of a GPU's memory."""

from __future__ import annotations

import torch


def device_memory(device: torch.device) -> dict[str, int]:
    """``peak_device_bytes``, the most that tensors of this process held on a GPU at once; empty on a CPU."""
    return {"peak_device_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
