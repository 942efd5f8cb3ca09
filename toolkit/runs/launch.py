"""Which launch this process belongs to, and whether it was started again after a worker died."""

from __future__ import annotations

import os

import psutil

LAUNCH = "CLIP_TOOLKIT_LAUNCH"
"""Variable of the environment by which a recipe that launches processes names the launch."""


def launch_id() -> str:
    """What the attempts of one launch share: an id of ours or torchrun's, else the launcher's process and its start."""
    run_id = os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID", "none")
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
