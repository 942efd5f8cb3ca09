"""The settings that ``serving.json`` chose for production."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from toolkit.reporting.html import NOTHING, number, paragraph, table


def serving_section(serving: dict[str, Any] | None) -> Markup:
    """What was chosen in a sentence, and what is expected of it beside its budget; nothing without a choice."""
    if not serving:
        return NOTHING
    expected, budget = serving.get("expected") or {}, serving.get("budget") or {}
    machine = serving.get("machine") or {}
    measured_on = machine.get("processor")
    where = f" Measured on {measured_on}." if measured_on else ""
    sentence = (
        f"Production runs {serving['precision']} on {serving['provider']}: {_count(serving.get('sessions'), 'session')}"
        f" of {_count(serving.get('threads'), 'thread')}, batches of up to "
        f"{_count(serving.get('batch_size'), 'image')}.{where}"
    )
    rows = [
        ("p50 latency, ms", expected.get("p50_ms"), None),
        ("p99 latency, ms", expected.get("p99_ms"), budget.get("p99_ms")),
        ("throughput, images/s", expected.get("throughput_ips"), budget.get("rate")),
        ("throughput of predict, files/s", expected.get("files_ips"), None),
        ("accuracy lost, points", expected.get("accuracy_drop"), budget.get("max_accuracy_drop")),
    ]
    columns = {
        "figure": lambda row: row[0],
        "expected": lambda row: number(row[1]),
        "budget": lambda row: "" if row[2] is None else f"{'≥' if 'images/s' in row[0] else '≤'} {number(row[2])}",
    }
    known = [row for row in rows if row[1:] != (None, None)]
    return paragraph(sentence) + table("What is expected of these settings", columns, known)


def _count(number_of: int | None, what: str) -> str:
    """A count with its noun."""
    if number_of is None:
        return f"the default {what}s"
    return f"{number_of:,} {what}{'' if number_of == 1 else 's'}"
