"""Which launch this process belongs to, and whether it was started again after a worker died."""

from __future__ import annotations

import os
import socket

import psutil
from pydantic import BaseModel, ConfigDict

RUN_ID = "TORCHELASTIC_RUN_ID"
"""What an elastic launcher, torchrun or ``accelerate launch``, sets for its workers alone."""

LAUNCH = "CLIP_TOOLKIT_LAUNCH"
"""Variable of the environment by which a recipe that launches processes names the launch."""


def launch_id() -> str | None:
    """What a recipe that launches processes calls the launch that this one belongs to; None elsewhere."""
    return os.environ.get(LAUNCH) or None


class Worker(BaseModel):
    """A process that trains, and the elastic launcher that started it, each by machine, number and start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: str
    launcher: str | None = None
    """None where it was started by hand."""

    @classmethod
    def this(cls) -> Worker:
        """This process."""
        me = psutil.Process()
        launcher = _launcher_of(me) if RUN_ID in os.environ else None
        return cls(process=_named(me), launcher=None if launcher is None else _named(launcher))

    def follows(self, other: Worker) -> bool:
        """Whether the launcher that started this worker had started the other one before it."""
        return self.launcher is not None and self.launcher == other.launcher and self.process != other.process


def restarts() -> int:
    """How often an elastic launcher has started this process again after a worker of this machine failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _launcher_of(process: psutil.Process) -> psutil.Process | None:
    """The nearest process above that is no worker itself: a script may stand between the launcher and a worker."""
    try:
        return next((above for above in process.parents() if RUN_ID not in above.environ()), None)
    except psutil.Error:  # of another user, or gone
        return None


def _named(process: psutil.Process) -> str:
    return f"{socket.gethostname()} {process.pid} {process.create_time()}"
