"""Where the time of one request goes, from the encoded file to the label."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from export.latency.measure import REWARM_RUNS, MinSamples
from export.latency.statistics import percentiles
from toolkit.runtime.binding import Binding
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Shapes, shapes_of, stacked
from toolkit.runtime.providers import ON_CPU
from toolkit.runtime.session import Session

STEPS = ("decode_ms", "preprocess_ms", "host_to_device_ms", "network_ms", "device_to_host_ms", "file_to_label_ms")


def split_request(
    bundle: Bundle, precision: str, session: Session, contents: Sequence[bytes], least: MinSamples
) -> dict[str, Any]:
    """Time each step of single requests over a pool of encoded images.

    Args:
        bundle: whose labels and preprocessing are used; JPEGs are decoded smaller where it was tuned so.
        precision: of the graph.
        session: its graph.
        contents: encoded images, or texts in UTF-8 where the graph takes them alone.
        least: how many requests, for how long.

    Returns:
        Medians ``decode_ms``, ``preprocess_ms`` (None where it is part of the graph; of texts too),
        ``host_to_device_ms`` and ``device_to_host_ms`` (None on a CPU, which reads the array where it lies),
        ``network_ms`` (with the preprocessing where that is part of the graph), ``file_to_label_ms`` of the whole, with
        ``p99`` and ``intervals`` of the whole; ``requests``.
    """
    inside = session.input == "image"
    on_cpu = session.provider in ON_CPU
    names = [name for name in STEPS if not (on_cpu and name in ("host_to_device_ms", "device_to_host_ms"))]
    bindings: dict[Shapes, Binding] = {}
    tuned = bundle.tuned_for(session.provider, precision)
    reader = bundle.reader(session.input, reduced_jpeg=bool(tuned and tuned.reduced_jpeg))
    texts = cycle((bundle.golden().texts if reader.tokenizer else None) or [None])
    steps: dict[str, list[float]] = {name: [] for name in names}

    def request(content: bytes) -> None:
        marks = [time.perf_counter()]

        def mark() -> None:
            marks.append(time.perf_counter())

        if reader.takes_image:
            image = reader.preprocess.decoded(content, grey=not inside)
            mark()
            example = {session.input: np.asarray(image) if inside else bundle.preprocess(image)}
            batch = stacked([reader.beside(example, next(texts))])
        else:
            text = content.decode()
            mark()
            batch = stacked([reader(None, text)])
        mark()
        if on_cpu:
            outputs = session.run(batch)
        else:
            shapes = shapes_of(batch)
            if shapes not in bindings:  # once for each shape; not what a request costs
                bindings[shapes] = Binding(session, dict(shapes))
                took = time.perf_counter() - marks[-1]
                marks[:] = [at + took for at in marks]
            outputs = bindings[shapes].steps(batch, mark)
        bundle.labels[int(bundle.decision.likeliest(outputs["logits"])[0])]
        mark()
        spans = np.diff(marks)
        for name, seconds in zip(names[:-1], spans, strict=True):
            steps[name].append(float(seconds))
        steps["file_to_label_ms"].append(float(spans.sum()))

    _repeat(request, contents, least)
    whole = percentiles(steps["file_to_label_ms"])
    row: dict[str, Any] = {name: 1000 * float(np.median(seconds)) for name, seconds in steps.items()}
    row = dict.fromkeys(STEPS) | row
    if inside and reader.tokenizer is None:
        row["preprocess_ms"] = None
    return row | {
        "p99_file_to_label_ms": whole["p99_ms"],
        "intervals": {
            "file_to_label_ms": whole["intervals"]["p50_ms"],
            "p99_file_to_label_ms": whole["intervals"]["p99_ms"],
        },
        "requests": len(steps["file_to_label_ms"]),
        "network_includes_preprocessing": inside,
    }


def _repeat(request: Callable[[bytes], None], contents: Sequence[bytes], least: MinSamples) -> None:
    """Enough requests, one after the other."""
    for content in contents[:REWARM_RUNS]:
        request(content)
    started, done = time.perf_counter(), 0
    while done < least.runs or time.perf_counter() - started < least.seconds:
        request(contents[done % len(contents)])
        done += 1
