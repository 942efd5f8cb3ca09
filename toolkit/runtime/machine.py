"""What this machine offers: the cores that may be used, and its description in metrics."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from toolkit.runtime.cgroup import SYSTEM, cpu_quota

VECTOR_INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of Linux; without one of the VNNI or AMX kind, x86 multiplies integers little faster than floats."""


def usable_cores(system: Path = SYSTEM) -> int:
    """Cores this process may use: its affinity, cut by the quota of its control groups under ``system``."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cpu_quota(system)
    return max(1, affinity if quota is None else min(affinity, round(quota)))


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and system, for files that hold measurements."""
    return {
        "processor": _processor_name(),
        "instructions": vector_instructions(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def vector_instructions() -> list[str]:
    """Extensions that matmuls use, of those that the processor has; empty where the system doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in VECTOR_INSTRUCTIONS if flag in flags]


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
