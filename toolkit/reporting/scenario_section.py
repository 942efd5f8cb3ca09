"""What the graphs bear under load: offline, server, streams, and sessions beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import (
    NOTHING,
    Columns,
    graph_name,
    joined,
    number,
    paragraph,
    plot,
    reads,
    subsection,
    table,
)


def scenario_parts(scenarios: dict[str, Any], plots: Path) -> list[str]:
    """A part for each scenario of ``latency.json`` that was measured."""
    return [
        subsection("Offline: as many images as the machine can do", _offline(scenarios)),
        subsection("Server: requests that arrive at random", _server(scenarios.get("server"), plots)),
        subsection("MultiStream: queries of several images", _queries(scenarios.get("multi_stream") or [])),
        subsection("Sessions and threads", _concurrency(scenarios.get("concurrency") or [])),
    ]


def _offline(scenarios: dict[str, Any]) -> Markup:
    rows = scenarios.get("offline") or []
    columns: Columns = {
        "graph": graph_name,
        "batch": reads("batch_size"),
        "images/s": reads("throughput_ips"),
        "p99, ms": reads("p99_ms"),
    }
    return table("Throughput over the batch size", columns, rows) + paragraph(scenarios.get("offline_end") or "")


def _server(server: dict[str, Any] | None, plots: Path) -> Markup:
    if not server:
        return NOTHING
    target, holds = number(server.get("target_p99_ms")), server.get("rate_that_holds_ips")
    graph = graph_name(server)
    verdict = (
        f"{graph} holds p99 ≤ {target} ms up to {number(holds)} images/s."
        if holds
        else f"{graph} holds p99 ≤ {target} ms at no rate that was tried."
    )
    columns = {
        "offered, images/s": reads("offered_ips"),
        "achieved, images/s": reads("achieved_ips"),
        "p50, ms": reads("p50_ms"),
        "p99, ms": reads("p99_ms"),
        "saturated": reads("saturated"),
        "requests": reads("requests"),
    }
    return joined(
        [
            paragraph(verdict),
            table("Latency under offered load", columns, server.get("points") or []),
            plot(plots, "server", f"Latency against the offered load, with the target for p99: {verdict}"),
        ]
    )


def _queries(rows: list[dict[str, Any]]) -> Markup:
    columns: Columns = {
        "graph": graph_name,
        "images a query": reads("samples_per_query"),
        "p50, ms": reads("p50_ms"),
        "p99, ms": reads("p99_ms"),
        "images/s": reads("throughput_ips"),
    }
    return table("One query after the other", columns, rows)


def _options(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in (row.get("provider_options") or {}).items())


def _concurrency(rows: list[dict[str, Any]]) -> Markup:
    columns: Columns = {
        "sessions": reads("sessions"),
        "threads each": reads("threads"),
        "pools spin": reads("allow_spinning"),
        "options": _options,
        "images/s": reads("throughput_ips"),
        "p50, ms": reads("p50_ms"),
        "p99, ms": reads("p99_ms"),
        "note": reads("note"),
    }
    return table("Sessions side by side", columns, rows)
