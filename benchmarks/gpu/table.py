"""The records as one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_table(records: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Write how each stage ended, and the speed of those that have any."""
    path.write_text("\n".join(lines(records)) + "\n", "utf-8")


def lines(records: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """The page's lines in Markdown."""
    yield "| stage | outcome | seconds |"
    yield "| --- | --- | --- |"
    for name, record in records.items():
        reason = "" if record["ok"] else ": " + str(record["error"]).strip().splitlines()[-1][:160].replace("|", "/")
        yield f"| {name} | {'ok' if record['ok'] else 'failed'}{reason} | {record['seconds']:.0f} |"
    speed = records.get("rivals", {}).get("found", {})
    for encoder, measured in speed.items():
        yield ""
        yield f"{encoder}, p50 in ms, host to host (device alone where its events tell)"
        yield ""
        yield from _grid(measured["rows"])
    yield from _shares(records)
    copies = records.get("placement", {}).get("found", {})
    if copies:
        yield ""
        yield "| graph | copies to the host | to the device |"
        yield "| --- | --- | --- |"
        for name, each in copies.items():
            yield f"| {name} | {each['MemcpyToHost']} | {each['MemcpyFromHost']} |"


def _shares(records: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """B/32's rate over that of its matmuls alone by the better library, where both were measured."""
    measured = records.get("ceilings", {}).get("found", {}).get("tflops", {})
    best = {name: max(by_library.values()) for name, by_library in measured.items()}
    rows = records.get("rivals", {}).get("found", {}).get("vit-b-32", {}).get("rows", [])
    shown = [(row, best[key]) for row in rows if (key := f"{row['precision']}, batch {row['batch_size']}") in best]
    if shown:
        yield from ("", "| vit-b-32 | batch | TFLOP/s | of the matmuls alone |", "| --- | --- | --- | --- |")
    for row, ceiling in shown:
        share = f"{row['tflops'] / ceiling:.2f}"
        yield f"| {row['engine']} {row['precision']} | {row['batch_size']} | {row['tflops']:.4g} | {share} |"


def _grid(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Engines down, batch sizes across."""
    sizes = sorted({row["batch_size"] for row in rows})
    yield "| engine | " + " | ".join(f"batch {size}" for size in sizes) + " |"
    yield "| --- |" + " --- |" * len(sizes)
    for engine in dict.fromkeys((row["engine"], row["precision"]) for row in rows):
        cells = []
        for size in sizes:
            row = next((r for r in rows if (r["engine"], r["precision"], r["batch_size"]) == (*engine, size)), None)
            device = f" ({row['device']['p50_ms']:.2f})" if row and row.get("device") else ""
            cells.append(f"{row['p50_ms']:.2f}{device}" if row else "")
        yield f"| {engine[0]} {engine[1]} | " + " | ".join(cells) + " |"
