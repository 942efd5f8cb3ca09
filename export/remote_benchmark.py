"""Measure a running server as the server scenario measures sessions."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from export.benchmark import TARGET
from export.latency.measure import MinSamples
from export.latency.pool import contents_of
from export.latency.scenarios.remote import remote_server
from export.latency.scenarios.server import LEAST, find_rate
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.latency_file import LATENCY, SHIPPED
from toolkit.runtime.machine import describe_machine

SPREAD = 3
"""Of the rate that requests one after the other reach, where the search begins: sessions and batches add to it."""


def benchmark_url(
    bundle: Bundle,
    url: str,
    *,
    rate: float | None = None,
    target_p99_ms: float | None = None,
    least: MinSamples = LEAST,
    images: Path | None = None,
    headers: dict[str, str] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Offer Poisson arrivals to a server that has a bundle under its folder's name.

    Args:
        bundle: the same bundle.
        url: of the server.
        rate: images a second; the highest at which p99 stays within the target is searched if None.
        target_p99_ms: p99 to hold, in milliseconds; as tuned, or twice what a request takes alone, unless given.
        least: requests and seconds of a point, at least.
        images: folder of images; the golden ones if None.
        headers: of every request.
        progress: told how it goes on.

    Returns:
        ``url``, ``model``, ``platform``, ``alone_ms`` (a request when no other is there), ``graph_p50_ms`` (of the
        graph alone, from ``latency.json``; None without), ``server`` (``points``, and what
        :func:`~export.latency.scenarios.server.find_rate` says), ``inputs``, ``machine`` (the client's), ``created``.

    Raises:
        ToolkitError: nothing answers there, or it has no such model.
    """
    contents, source = contents_of(bundle, None, images)
    server = remote_server(bundle, contents, url, bundle.path.absolute().name, headers, progress)
    alone = server.alone_seconds()
    if rate is not None:
        found = server.describe() | {"points": [server.offer(rate, least)]}
    else:
        tuned = bundle.serving
        target = target_p99_ms or (tuned.budget.p99_ms if tuned else float(f"{1000 * TARGET * alone:.2g}"))
        found = find_rate(server, target_p99_ms=target, offline_ips=SPREAD / alone, least=least)
    return {
        "url": url,
        "model": server.model,
        "platform": server.platform,
        "alone_ms": 1000 * alone,
        "graph_p50_ms": _graph_p50(bundle),
        "server": found,
        "inputs": {"images": len(contents), "from": source},
        "machine": describe_machine(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _graph_p50(bundle: Bundle) -> float | None:
    """Of the default graph at batch 1, where ``latency.json`` has it."""
    if LATENCY not in bundle.manifest.files:
        return None
    rows = json.loads(bundle.read(LATENCY))["rows"]
    ours = [
        row
        for row in rows
        if row["engine"] in SHIPPED and (row["batch_size"], row["precision"]) == (1, bundle.precisions[0])
    ]
    return float(ours[0]["p50_ms"]) if ours else None
