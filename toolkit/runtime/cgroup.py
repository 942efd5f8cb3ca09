"""Control groups of Linux, of both versions: what CPU time this process may have, and how long it was held back.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst (version 1), and
proc_pid_mountinfo(5).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/")
USUAL_PLACES = {
    2: ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
    1: ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu"),
}
"""Where the groups of a version are mounted, if the system doesn't say."""


@dataclass(frozen=True)
class Group:
    """A control group that limits CPU time."""

    folder: Path
    version: int

    def quota(self) -> float | None:
        """Cores' worth of time that its processes may use together; None without a limit."""
        try:
            if self.version == 2:
                limit, period = (self.folder / "cpu.max").read_text("utf-8").split()
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                limit, period = ((self.folder / name).read_text("utf-8").strip() for name in names)
            return None if limit in ("max", "-1") else int(limit) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            return None

    def held_back_microseconds(self) -> float | None:
        """How long its processes waited for the next period so far; None where it doesn't say."""
        key, unit = ("throttled_usec", 1.0) if self.version == 2 else ("throttled_time", 1e-3)
        try:
            lines = dict(line.split() for line in (self.folder / "cpu.stat").read_text("utf-8").splitlines())
            return int(lines[key]) * unit
        except (OSError, ValueError, KeyError):
            return None


def cpu_groups(system: Path = SYSTEM) -> list[Group]:
    """The groups that this process is in, and all above them as far as they can be seen: each may set a limit.

    Args:
        system: the folder that holds ``proc`` and ``sys``.
    """
    found = []
    for version, path in _memberships(system):
        for mounted, root in _mounts(system, version):
            below = posixpath.relpath(path, root) if path == root or path.startswith(root.rstrip("/") + "/") else "."
            inner = mounted / below
            found += [
                Group(each, version) for each in (inner, *inner.parents) if each == mounted or mounted in each.parents
            ]
    return list(dict.fromkeys(group for group in found if group.folder.is_dir()))


def cpu_quota(system: Path = SYSTEM) -> float | None:
    """Cores' worth of time that this process may use: the smallest quota of its groups; None without a limit."""
    quotas = [quota for group in cpu_groups(system) if (quota := group.quota()) is not None]
    return min(quotas, default=None)


def held_back_microseconds(system: Path = SYSTEM) -> float | None:
    """How long quotas held this process's groups back so far; None where no group says."""
    times = [time for group in cpu_groups(system) if (time := group.held_back_microseconds()) is not None]
    return sum(times) if times else None


def _memberships(system: Path) -> Iterator[tuple[int, str]]:
    """Version and path of the groups of this process that may limit its CPU time."""
    for line in _lines(system / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        path = posixpath.normpath("/" + path.lstrip("/"))  # outside its own root it begins with /..
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(system: Path, version: int) -> list[tuple[Path, str]]:
    """Where the groups of a version stand, and which group stands there."""
    found = []
    for line in _lines(system / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (version == 2 and kind[0] == "cgroup2") or (
            version == 1 and kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        ):
            root, place = (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), text) for text in fields[3:5])
            found.append((system / place.lstrip("/"), posixpath.normpath("/" + root.lstrip("/"))))
    return found or [(system / place.lstrip("/"), "/") for place in USUAL_PLACES[version]]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
