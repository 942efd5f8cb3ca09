"""``toolkit compare``: two latency files of earlier runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import JsonFlag, print_json, print_table, warn


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A latency.json, or a bundle that holds one.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The other one.")],
    json: JsonFlag = False,
) -> None:
    """Set two latency files side by side with their intervals, and say where machine or settings differ.

    To tell whether a new bundle is slower, measure both in alternation: toolkit bench-latency NEW --baseline OLD.

    Example: toolkit compare old/latency.json bundles/digits/latency.json
    """
    from export.latency.compare import compare as beside

    outcome = beside(a, b)
    for warning in outcome["warnings"]:
        warn(warning)
    if json:
        print_json(outcome)
        return
    rows = [
        [
            row["engine"],
            f"{row['provider']} {row['precision']}",
            str(row["batch_size"]),
            _with(row["a_p50_ms"], row["a_p50_interval"]),
            _with(row["b_p50_ms"], row["b_p50_interval"]),
            *(f"{row[key]:.3f}" for key in ("p50_ratio", "p99_ratio", "throughput_ratio")),
            row["verdict"],
        ]
        for row in outcome["rows"]
    ]
    columns = ["engine", "on", "batch", "A p50 ms", "B p50 ms", "B/A p50", "B/A p99", "B/A images/s", "B is"]
    print_table(f"A = {a}, B = {b}", columns, rows, left=2)


def _with(value: float, interval: list[float] | None) -> str:
    return f"{value:.2f}" if interval is None else f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
