"""Two ``latency.json`` of earlier runs side by side, with what differs in how they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.regular_files import read_settings
from toolkit.runtime.latency_file import LATENCY, LatencyFile
from toolkit.strict_json import read_json, reason_in

KEY = ("engine", "provider", "precision", "batch_size")
MACHINE = ("processor", "usable_cores", "cpu_quota", "memory_gib", "system", "python", "versions", "instructions")
SETTINGS = ("threads", "scenario")


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Rows that both files hold, B beside A.

    Args:
        a: a ``latency.json``, or a bundle that holds one.
        b: the other.

    Returns:
        ``rows`` with the key, ``a_p50_ms``, ``b_p50_ms``, their ``intervals``, ``p50_ratio`` (B to A),
        ``p99_ratio``, ``throughput_ratio`` and ``verdict``: ``faster``, ``slower``, ``no difference`` (the intervals
        of p50 overlap) or ``unknown`` (a file without intervals); ``only_in_a`` and ``only_in_b``; ``warnings``:
        sentences about machine, settings and graph that differ, which no interval covers.

    Raises:
        ToolkitError: a file is missing, or no latency file; they have no row in common.
    """
    first, second = _read(a), _read(b)
    rows_a, rows_b = ({tuple(row[key] for key in KEY): row for row in each["rows"]} for each in (first, second))
    both = [key for key in rows_a if key in rows_b]
    if not both:
        fix = "measure the same engines, precisions and batch sizes"
        raise ToolkitError("the files have no row in common", where=f"{a}, {b}", fix=fix)
    return {
        "a": str(a),
        "b": str(b),
        "rows": [dict(zip(KEY, key, strict=True)) | _beside(rows_a[key], rows_b[key]) for key in both],
        "only_in_a": [list(key) for key in rows_a if key not in rows_b],
        "only_in_b": [list(key) for key in rows_b if key not in rows_a],
        "warnings": _warnings(first, second, [(rows_a[key], rows_b[key]) for key in both]),
    }


def _read(path: Path) -> dict[str, Any]:
    file = path / LATENCY if path.is_dir() else path
    try:
        content: dict[str, Any] = read_json(read_settings(file))
        LatencyFile.model_validate(content)
    except OSError as error:
        fix = "give a latency.json, or a bundle that bench-latency measured"
        raise ToolkitError(error.strerror or str(error), where=file, fix=fix) from error
    except ValueError as error:
        fix = "measure again with toolkit bench-latency"
        raise ToolkitError(f"no latency file: {reason_in(error)}", where=file, fix=fix) from error
    return content


def _beside(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Metrics of one row of each file."""
    intervals = [row.get("intervals", {}).get("p50_ms") for row in (a, b)]
    verdict = "unknown"
    if all(intervals):
        (a_low, a_high), (b_low, b_high) = intervals
        verdict = "slower" if b_low > a_high else "faster" if b_high < a_low else "no difference"
    return {
        "a_p50_ms": a["p50_ms"],
        "b_p50_ms": b["p50_ms"],
        "a_p50_interval": intervals[0],
        "b_p50_interval": intervals[1],
        "p50_ratio": b["p50_ms"] / a["p50_ms"],
        "p99_ratio": b["p99_ms"] / a["p99_ms"],
        "throughput_ratio": b["throughput_ips"] / a["throughput_ips"],
        "verdict": verdict,
    }


def _warnings(a: dict[str, Any], b: dict[str, Any], rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """What differs beside the metrics."""
    said = []
    for key in MACHINE:
        before, after = a["machine"].get(key), b["machine"].get(key)
        if before != after:
            said.append(f"another machine: {key} {before} in A, {after} in B")
    for key in SETTINGS:
        pairs = {(row_a.get(key), row_b.get(key)) for row_a, row_b in rows}
        said += [f"another setting: {key} {x} in A, {y} in B" for x, y in sorted(pairs, key=str) if x != y]
    for precision in dict.fromkeys(row["precision"] for row, _ in rows):
        hashes = [(each.get("graphs") or {}).get(precision) for each in (a, b)]
        if hashes[0] != hashes[1]:
            said.append(f"another graph: the hashes of {precision} differ")
    for key in ("what", "from", "shapes"):
        before, after = (each.get("inputs", {}).get(key) for each in (a, b))
        if before != after:
            said.append(f"other inputs: {key} {before} in A, {after} in B")
    for name, each in (("A", a), ("B", b)):
        said += [f"{name} was disturbed: {sentence}" for sentence in each["machine"].get("throttled", [])]
    return said
