"""Which launch this process belongs to, and whether it was started again after a worker died."""

from __future__ import annotations

import os

import psutil


def launch_id() -> str:
    """What the attempts of one launch share: torchrun's run id, else the launcher's process and its start."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if run_id != "none":
        return run_id
    parent = psutil.Process().parent()
    return f"process {parent.pid} of {parent.create_time()}" if parent else "none"


def restarts() -> int:
    """How often an elastic launcher has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def was_restarted() -> bool:
    """Whether an elastic launcher started this process again after a worker had died."""
    return restarts() > 0
