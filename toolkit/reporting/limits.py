"""What ``limits`` of ``latency.json`` says: the ceilings of the machine and the work of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Ceiling(NamedTuple):
    """A rate of matmuls that was measured on the machine."""

    precision: str
    batch_size: int
    gflops: float
    """Rate in GFLOP/s."""
    library: str


class Point(NamedTuple):
    """A row of ``latency.json`` on the roofline."""

    row: dict[str, Any]
    intensity: float
    """FLOP a byte."""
    gflops: float
    """GFLOP/s."""


def ceilings(limits: dict[str, Any]) -> Iterator[Ceiling]:
    """The runtime's ceilings, then torch's where it was measured, by precision and batch size."""
    measured = limits.get("ceilings") or {}
    runtime = str(measured.get("runtime", "onnxruntime"))  # files of older versions don't say
    for key, library in (("runtime_gflops", runtime), ("torch_gflops", "torch")):
        for precision, sizes in (measured.get(key) or {}).items():
            yield from (Ceiling(precision, int(size), rate, library) for size, rate in sizes.items() if rate)


def points(latency: dict[str, Any]) -> list[Point]:
    """The rows whose work is known, with their intensity and rate."""
    work = {(each["precision"], each["batch_size"]): each for each in (latency.get("limits") or {}).get("work") or []}
    found = []
    for row in latency["rows"]:
        each = work.get((row["precision"], row["batch_size"]))
        if each and each.get("gflop") and each.get("mib"):
            rate = row.get("gflops_per_s") or each["gflop"] / row["p50_ms"] * 1e3
            found.append(Point(row, each["gflop"] * 1e9 / (each["mib"] * 2**20), rate))
    return found
