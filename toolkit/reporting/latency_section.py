"""How long the graphs take on the machine that measured them, and what that machine is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import (
    NOTHING,
    Columns,
    facts,
    folded,
    graph_name,
    joined,
    note,
    number,
    paragraph,
    plot,
    reads,
    subsection,
    table,
    within,
)
from toolkit.reporting.scenario_section import scenario_parts

WHO: Columns = {"engine": lambda row: f"{row['engine']} {graph_name(row)}", "batch": reads("batch_size")}
GRAPH_NAME: Columns = {"graph": graph_name}
UNITS = {"mhz": " MHz", "w": " W", "c": " °C", "gib": " GiB", "mib": " MiB"}
"""Of the metrics of a machine, by how their names end."""


def latency_section(latency: dict[str, Any] | None, plots: Path) -> Markup:
    """Latencies of batches, requests and starts, memory and scenarios; what ``latency.json`` lacks is left out."""
    if not latency:
        return NOTHING
    rows, inputs = latency["rows"], latency.get("inputs") or {}
    threads = sorted({row["threads"] for row in rows if row.get("threads")})
    where = f"On {latency['machine'].get('processor', 'this machine')}, threads: {', '.join(map(str, threads))}."
    images = f" {inputs['images']:,} images: {inputs.get('from', '')}." if inputs.get("images") else ""
    what = f" Times cover {inputs['what']}." if inputs.get("what") else ""
    return joined(
        [
            paragraph(where + images + what),
            note(warnings(latency)),
            subsection("Batches", _batches(rows), _drawn(rows, plots)),
            subsection(
                "A request, from file to label",
                _request(latency.get("request") or []),
                _operators(latency.get("operators") or []),
            ),
            subsection("Cold start", _cold_start(latency.get("cold_start") or [])),
            subsection("Memory", _memory(latency.get("memory") or [])),
            *scenario_parts(latency.get("scenarios") or {}, plots),
        ]
    )


def warnings(latency: dict[str, Any]) -> list[str]:
    """What makes the metrics doubtful: a throttled machine, engines that never got steady."""
    machine = latency["machine"]
    sentences = [f"{each[:1].upper()}{each[1:]}." for each in machine.get("throttled") or []]
    unsteady = [_named(row) for row in latency["rows"] if row.get("steady") is False]
    if unsteady:
        sentences.append(f"Still changing when the warm-up ended, so less certain: {'; '.join(unsteady)}.")
    return sentences


def machine_section(latency: dict[str, Any] | None) -> Markup:
    """Processor, GPU, memory, system and library versions."""
    if not latency:
        return NOTHING
    machine = latency["machine"]
    quota = machine.get("cpu_quota")
    cores = f"{machine.get('usable_cores', '?')} of {machine.get('cores', '?')} usable"
    gpu = dict(machine.get("gpu") or {})
    versions = machine.get("versions") or {}
    return facts(
        {
            "processor": str(machine.get("processor") or ""),
            "instructions": ", ".join(machine.get("instructions") or []),
            "cores": cores + (f", quota of {quota:g} cores' time" if quota else ""),
            **_described({"clocks_mhz": machine.get("clocks_mhz"), "memory_gib": machine.get("memory_gib")}),
            "GPU": str(gpu.pop("name", "")),
            **{f"GPU {name}": text for name, text in _described(gpu).items()},
            "system": str(machine.get("system") or ""),
            "Python": str(machine.get("python") or ""),
            "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "measured": str(latency.get("created") or ""),
        }
    )


def _described(metrics: dict[str, Any]) -> dict[str, str]:
    """Names without their units, and the metrics with them."""
    described = {}
    for key, value in metrics.items():
        name, _, end = key.rpartition("_")
        known = name and end in UNITS
        described[(name if known else key).replace("_", " ")] = _value(value, UNITS[end] if known else "")
    return described


def _batches(rows: list[dict[str, Any]]) -> Markup:
    def percentile(key: str) -> Any:
        return lambda row: within(row.get(key), (row.get("intervals") or {}).get(key))

    metrics = WHO | {
        "p50, ms": percentile("p50_ms"),
        "p90, ms": reads("p90_ms"),
        "p99, ms": percentile("p99_ms"),
        "images/s": reads("throughput_ips"),
    }
    details = WHO | {
        "p95, ms": percentile("p95_ms"),
        "p99.9, ms": percentile("p99_9_ms"),
        "mean, ms": reads("mean_ms"),
        "longest, ms": reads("max_ms"),
        "p50 of the blocks, ms": _blocks,
        "runs": reads("runs"),
        "warm-up runs": reads("warmup_runs"),
        "warm-up, s": reads("warmup_seconds"),
        "steady": reads("steady"),
        "threads": reads("threads"),
    }
    bracketed = any(row.get("intervals") for row in rows)
    return joined(
        [
            paragraph("Times are of a whole batch." + " In brackets: the 95 % interval." * bracketed),
            table("Latency and throughput", metrics, rows),
            folded("More percentiles, and how they were measured", table("Tails, warm-up and blocks", details, rows)),
        ]
    )


def _blocks(row: dict[str, Any]) -> str:
    blocks = row.get("block_p50_ms")
    return f"{number(min(blocks))} to {number(max(blocks))}" if blocks else ""


def _drawn(rows: list[dict[str, Any]], plots: Path) -> Markup:
    if not rows:
        return NOTHING
    fastest = min(rows, key=lambda row: row["p50_ms"])
    most = max(rows, key=lambda row: row["throughput_ips"])
    alt = (
        "Latency and throughput over the batch size, a line an engine; the shortest p50 is "
        f"{number(fastest['p50_ms'])} ms ({_named(fastest)}), the highest throughput "
        f"{number(most['throughput_ips'])} images/s ({_named(most)})"
    )
    return plot(plots, "latency", alt, "Dots are medians; whiskers reach to p99.")


def _request(rows: list[dict[str, Any]]) -> Markup:
    stages = {
        "decode_ms": "decode",
        "preprocess_ms": "preprocess",
        "host_to_device_ms": "to the device",
        "network_ms": "network",
        "device_to_host_ms": "from the device",
        "file_to_label_ms": "file to label",
    }
    return table("Medians in ms, one image", GRAPH_NAME | {name: reads(key) for key, name in stages.items()}, rows)


def _operators(rows: list[dict[str, Any]]) -> Markup:
    parts = dict.fromkeys(part for row in rows for part in row["parts"])
    columns = GRAPH_NAME | {part: partial(_part, part) for part in parts} | {"all nodes": reads("ms")}
    return table("Inside the graph, ms under the profiler", columns, rows)


def _part(part: str, row: dict[str, Any]) -> str:
    return number(row["parts"].get(part, 0.0))


def _cold_start(rows: list[dict[str, Any]]) -> Markup:
    stages = {
        "process_ms": "process",
        "import_ms": "imports",
        "session_ms": "session",
        "first_run_ms": "first run",
        "total_ms": "total",
    }
    return table(
        "From nothing to the first result, in ms", GRAPH_NAME | {name: reads(key) for key, name in stages.items()}, rows
    )


def _memory(rows: list[dict[str, Any]]) -> Markup:
    columns = GRAPH_NAME | {
        "batch": reads("batch_size"),
        "resident, MiB": reads("peak_resident_mib"),
        "on the device, MiB": reads("peak_device_mib"),
    }
    return table("Peak memory of a process that serves", columns, rows)


def _named(row: dict[str, Any]) -> str:
    return f"{row['engine']} {graph_name(row)}, batch {row['batch_size']}"


def _value(value: Any, unit: str = "") -> str:
    """Text of a metric, a list or a mapping of them, each with its unit; nothing for None."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_value(each, unit)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(each, unit) for each in value) or "none"
    return "" if value is None else f"{value}{unit}"
