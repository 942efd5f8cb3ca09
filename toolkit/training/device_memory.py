"""What training takes of a GPU's memory, and what it may take of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def device_memory(device: torch.device) -> dict[str, int]:
    """``peak_device_bytes``, the most that tensors of this process held on a GPU at once; empty on a CPU."""
    return {"peak_device_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def free_device_bytes(device: torch.device) -> int:
    """What is free of a GPU's memory, with what torch holds of it for tensors to come; 0 on a CPU, which has none."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def that_fit(sizes: Mapping[str, int], room: float) -> dict[str, int]:
    """Those of some things that fit into ``room`` bytes beside those before them, in order, with their sizes."""
    fitting: dict[str, int] = {}
    for name, size in sizes.items():
        if sum(fitting.values()) + size <= room:
            fitting[name] = size
    return fitting
