"""How near the graphs come to what the machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import NOTHING, Columns, graph_name, joined, number, paragraph, plot, reads, share, table
from toolkit.reporting.limits import ceilings, points


def limits_section(latency: dict[str, Any] | None, plots: Path) -> Markup:
    """Shares of the ceilings, the roofline, and the ceilings themselves; nothing where none was measured."""
    limits = (latency or {}).get("limits")
    if not latency or not limits:
        return NOTHING
    if "left_out" in limits:
        return paragraph(f"Not measured: {limits['left_out']}.")
    found = points(latency)
    copy = (limits.get("ceilings") or {}).get("copy_gib_s")
    best = max((point.row.get("share_of_ceiling") or 0 for point in found), default=0)
    alt = (
        f"Roofline: GFLOP/s of each engine against FLOP a byte, under the ceilings of this machine; {len(found)} points"
    )
    alt += f", the nearest reaches {share(best)} of its ceiling" if best else ""
    intro = "The ceiling is the rate at which this machine multiplies matrices of the network's own sizes."
    intro += f" Its memory copies {number(copy)} GiB/s." if copy else ""
    columns: Columns = {
        "engine": lambda point: f"{point.row['engine']} {graph_name(point.row)}",
        "batch": lambda point: str(point.row["batch_size"]),
        "GFLOP/s": lambda point: number(point.gflops),
        "FLOP a byte": lambda point: number(point.intensity),
        "of the runtime's ceiling": lambda point: share(point.row.get("share_of_ceiling")),
        "of the best ceiling": lambda point: share(point.row.get("share_of_best_ceiling")),
    }
    alone: Columns = {
        "graph": reads("precision"),
        "batch": reads("batch_size"),
        "p50, ms": reads("p50_ms"),
        "GFLOP/s": reads("gflops_per_s"),
        "of the runtime's ceiling": lambda row: share(row.get("share_of_ceiling")),
        "of the best ceiling": lambda row: share(row.get("share_of_best_ceiling")),
    }
    rates: Columns = {
        "library": lambda each: f"{each.library} {each.precision}",
        "batch": lambda each: str(each.batch_size),
        "GFLOP/s": lambda each: number(each.gflops),
    }
    return joined(
        [
            paragraph(intro),
            plot(plots, "roofline", alt, "Each point is an engine at a batch size, with its share of its ceiling."),
            table("How near each engine comes", columns, found),
            paragraph(" ".join(f"{each[:1].upper()}{each[1:]}." for each in limits.get("notes") or [])),
            table("The network alone, in turns with the matmuls", alone, limits.get("network") or []),
            table("Ceilings", rates, ceilings(limits)),
        ]
    )
