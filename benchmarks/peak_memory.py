"""Memory of the processes that benchmarks start."""

from __future__ import annotations

from pathlib import Path


def high_water(process: int) -> int:
    """Largest resident size of a running process so far (not ru_maxrss, which begins with its parent's)."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
