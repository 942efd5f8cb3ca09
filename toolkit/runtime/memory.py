"""Memory of this process and what is left for it, in MiB."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path, PurePosixPath

import psutil

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
FAILURES = (
    *("failed to allocate", "bad allocation", "bad_alloc", "bfcarena", "bfc_arena", "out of memory"),
    *("cudaerrormemoryallocation", "status_alloc_failed", "smaller than requested bytes"),
)
"""What ONNX Runtime, CUDA and torch write when an allocation fails, in lower case."""


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on the host or on the device."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in FAILURES)


def resident_mib() -> float:
    """Resident memory of this process now."""
    return float(psutil.Process().memory_info().rss / MIB)


def peak_resident_mib() -> float:
    """Largest resident memory since :func:`reset_peak`, or since the process began where that is not allowed."""
    if (since_reset := _kib(PROC / "self" / "status", "VmHWM")) is not None:
        return since_reset
    if sys.platform == "win32" or resource is None:
        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss) / MIB)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def reset_peak() -> bool:
    """Begin anew to keep the peak; whether the system allowed it (Linux)."""
    try:
        (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def return_freed() -> None:
    """Give memory that was freed back to the system; glibc would keep most of it for later."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def available_mib() -> float:
    """What this process can still take before the machine or its container runs out."""
    available = float(psutil.virtual_memory().available / MIB)
    room = _room_in_cgroups()
    return available if room is None else min(available, room)


def _kib(file: Path, key: str) -> float | None:
    """MiB of a line such as ``VmRSS:  123 kB``."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), None)


def _room_in_cgroups() -> float | None:
    """Smallest room below a limit of this process's control groups, of either version, and of those above them."""
    try:
        lines = (PROC / "self" / "cgroup").read_text("utf-8").splitlines()
    except OSError:
        return None
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, files = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        rooms += [_room_in(root / folder, *files) for folder in (own, *own.parents)]
    return min((room for room in rooms if room is not None), default=None)


def _room_in(folder: Path, limit_file: str, used_file: str, cache: str) -> float | None:
    """MiB below a group's limit; file pages that nobody uses count as room, since the system gives them up first."""
    try:
        limit, used = (folder / limit_file).read_text("utf-8").strip(), int((folder / used_file).read_text("utf-8"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(statistics.get(cache, 0))) / MIB
