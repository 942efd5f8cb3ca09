"""``toolkit bench-latency --url``: the server scenario against a running server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from toolkit.cli.output import console, counting, print_json
from toolkit.cli.serve import API_KEY
from toolkit.errors import ToolkitError


def measure_url(
    bundle: Path,
    url: str,
    rate: float | None,
    target_p99_ms: float | None,
    least: tuple[int, float],
    images: Path | None,
    out: Path | None,
    *,
    json: bool,
) -> None:
    """Offer requests to a server that has the bundle under its folder's name, and say what came back.

    Args:
        bundle: the same bundle.
        url: of the server.
        rate: requests a second; the highest within the target is searched if None.
        target_p99_ms: of that search.
        least: requests and seconds of a point, at least.
        images: folder of images; the bundle's golden ones if None.
        out: file for the outcome.
        json: whether it is printed as JSON.

    Raises:
        ToolkitError: nothing answers there, or has no such model; what is asked for can't be offered.
    """
    from importlib.util import find_spec

    if find_spec("httptools") is None:
        what = "httptools is not installed"
        raise ToolkitError(what, where="--url", fix='pip install "clip-toolkit[serve]"')
    from export.latency.measure import MinSamples
    from export.remote_benchmark import benchmark_url
    from toolkit.files import write_json
    from toolkit.runtime.bundle import Bundle

    key = os.environ.get(API_KEY)
    with counting("requests") as progress:
        found = benchmark_url(
            Bundle(bundle),
            url,
            rate=rate,
            target_p99_ms=target_p99_ms,
            least=MinSamples(max(least[0], 500), max(least[1], 10.0)) if rate is None else MinSamples(*least),
            images=images,
            headers={"x-api-key": key} if key else None,
            progress=progress,
        )
    if out is not None:
        write_json(out, found)
    if json:
        print_json(found)
        return
    for sentence in url_sentences(found):
        console().print(sentence, soft_wrap=True)
    if out is not None:
        console().print(f"written: {out}", soft_wrap=True)


def url_sentences(found: dict[str, Any]) -> list[str]:
    """What was measured of a server, in words."""
    said = [f"{found['model']} at {found['url']} ({found['platform']}): {found['alone_ms']:.2f} ms a request alone"]
    if found["graph_p50_ms"] is not None:
        said[0] += f", where the graph takes {found['graph_p50_ms']:.2f} ms (latency.json)"
    for point in found["server"]["points"]:
        p50, p99 = ("-" if point[name] is None else f"{point[name]:.2f} ms" for name in ("p50_ms", "p99_ms"))
        said.append(
            f"offered {point['offered_ips']:.1f}, answered {point['achieved_ips']:.1f} a second: p50 {p50}, p99 {p99}; "
            f"{point['refused']:,} refused, {point['failed']:,} failed of {point['requests']:,}; {point['note']}"
        )
    server = found["server"]
    if "target_p99_ms" in server:
        held = server["rate_that_holds_ips"]
        holds = "no rate" if held is None else f"{held:.1f} images/s"
        said.append(f"Server: {holds} within a p99 of {server['target_p99_ms']:g} ms; {server['note']}")
    return said
