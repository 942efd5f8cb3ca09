"""Workers that an elastic launcher starts again after one of them died."""

from __future__ import annotations

import os

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from toolkit.runs.launch import restarts
from toolkit.training.processes import PATIENCE


def meet_again() -> None:
    """After a restart by torchrun, let the new processes meet under keys of their own.

    torchrun (2.5 to 2.13) keeps one key-value store for all attempts, in which the dead
    processes' addresses still stand; gloo and NCCL then try to connect to those
    (pytorch#135712). On one machine the number of the attempt tells the keys apart. On several
    it differs from machine to machine, and torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    if not restarts() or not _shares_a_store() or _machines() > 1 or torch.distributed.is_initialized():
        return
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    torch.distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"attempt-{restarts()}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )


def restarts_would_fail() -> bool:
    """Whether torchrun runs on several machines in the way that :func:`meet_again` can't mend."""
    return _shares_a_store() and _machines() > 1


def _shares_a_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _machines() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))
