"""Which launch this process belongs to, and whether it was started again after a worker died."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

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
    """A process that trains, and the elastic launcher that started it, each by machine, number and start.

    The clock of a machine may be set while a run is under way; none of the three changes then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: str
    launcher: str | None = None
    """None where it was started by hand."""

    @classmethod
    def this(cls) -> Worker:
        """This process."""
        me = psutil.Process()
        return cls(process=_named(me), launcher=_launcher_of(me) if RUN_ID in os.environ else None)

    def follows(self, other: Worker) -> bool:
        """Whether the launcher that started this worker had started the other one before it."""
        return self.launcher is not None and self.launcher == other.launcher and self.process != other.process


def restarts() -> int:
    """How often an elastic launcher has started this process again after a worker of this machine failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _launcher_of(process: psutil.Process) -> str | None:
    """The nearest process above that is no worker itself: a script may stand between the launcher and a worker."""
    try:
        return next((_named(above) for above in process.parents() if RUN_ID not in above.environ()), None)
    except (psutil.Error, OSError):  # of another user, or gone
        return None


def _named(process: psutil.Process) -> str:
    return f"{socket.gethostname()} {process.pid} {_started(process)}"


def _started(process: psutil.Process) -> str:
    """When a process started: which boot of the machine, and ticks since then (``starttime`` of Linux's proc(5)).

    psutil adds the ticks to the time of the boot, which moves when the clock is set. Other systems
    note the time once, as a process starts.
    """
    if sys.platform != "linux":
        return str(process.create_time())
    boot = ""
    with suppress(OSError):  # a sandbox may lack it
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    _, _, after_name = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")
    return f"{boot} {after_name.split()[19].decode()}"
