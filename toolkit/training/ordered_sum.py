"""Gradients of several processes summed in the order of their numbers, as one process accumulates them.

The rings and trees of a collective sum in another order for each number of processes, which changes the last bits. On
CPUs, where a reproducible run is worth more than the traffic, every process gets all gradients and sums them alike:
processes that don't accumulate give the bytes of one that accumulates as many micro-batches.
"""

# no annotations from __future__: torch compares those of the hook with the types themselves

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def sum_in_order(model: torch.nn.Module) -> None:
    """Have a model's gradients averaged so, if it is shared by processes on CPUs."""
    if isinstance(model, DistributedDataParallel) and dist.get_backend() == dist.Backend.GLOO:
        model.register_comm_hook(None, _ordered_mean)


def _ordered_mean(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    mine: Tensor = bucket.buffer()
    processes = dist.get_world_size()
    parts = [torch.empty_like(mine) for _ in range(processes)]
    dist.all_gather(parts, mine)
    total = parts[0]
    for part in parts[1:]:
        total += part
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(total.div_(processes))
    return done
