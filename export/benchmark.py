"""Measure a bundle on this machine and write the figures into it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.latency import POOL, measure, onnxruntime_engine
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.reporting.describe import describe
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.predict import graph_input, places_by_shape, stacked
from toolkit.runtime.preprocess import Float32, UInt8
from toolkit.runtime.session import require_precision, runnable

MEASURED = {
    "pixel_values": "the network alone: pixel_values in host memory to probabilities in host memory",
    "image": "preprocessing and network: decoded images in host memory to probabilities in host memory; "
    "torch's includes the image processor",
}


@dataclass(frozen=True)
class Compared:
    """Engines to measure beside ONNX Runtime."""

    engines: Sequence[str] = ()
    run: Path | None = None
    """Run folder to take the classifier from, if it is no longer where the export found it."""


def benchmark(
    bundle: Bundle,
    *,
    provider: str,
    batch_sizes: Sequence[int],
    compare: Compared,
    runs: int,
    seconds: float,
    precision: str | None = None,
    threads: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure ONNX Runtime, and torch beside it where asked; see :func:`export.latency.measure`.

    Without ``precision``, every graph that the provider runs is measured, the bundle's default first.

    Returns:
        The content of ``latency.json``, which is written into the bundle with a plot.
    """
    bundle.check_files()
    measured = [require_precision(precision, provider)] if precision else runnable(bundle.precisions, provider)
    engines = [onnxruntime_engine(bundle, provider=provider, threads=threads, precision=each) for each in measured]
    engine = engines[0]
    versions: dict[str, str] = {"onnxruntime": ort.__version__}
    contents, source = _golden_files(bundle), "the bundle's golden images"
    if compare.engines:
        import torch

        from export.bundle import run_of
        from export.engines import torch_engine

        reference = run_of(bundle, compare.run)
        contents = [example.read() for example in reference.held_out(POOL)]
        source = "held-out images of the run's data set"
        for name in compare.engines:
            engines.append(torch_engine(name, reference, engine))
        versions["torch"] = torch.__version__
    pool = _pool(contents, engine.input, bundle)
    rows = measure(engines, pool, batch_sizes, runs=runs, seconds=seconds, advance=advance)
    latency = {
        "rows": rows,
        "machine": describe_machine() | {"versions": versions},
        "inputs": {
            "images": sum(map(len, pool)),
            "from": source,
            "shapes": [list(group.shape[1:]) for group in pool],
            "what": MEASURED[engine.input],
        },
        "graph_sha256": bundle.manifest.files[bundle.graph_name(measured[0])].sha256,
        "graphs": {each: bundle.manifest.files[bundle.graph_name(each)].sha256 for each in measured},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _write(bundle, latency)
    return latency


def _write(bundle: Bundle, latency: dict[str, Any]) -> None:
    write_json(bundle.path / "latency.json", latency)
    if find_spec("matplotlib"):
        from toolkit.reporting.latency_plot import plot_latency

        (bundle.path / "plots").mkdir(exist_ok=True)
        plot_latency(latency["rows"], bundle.path / "plots" / "latency.png")
    describe(bundle.path, bundle.manifest)
    bundle.update_manifest()


def _golden_files(bundle: Bundle) -> list[bytes]:
    names = bundle.golden().names
    if not names:
        raise ToolkitError("the bundle holds no golden images", where=bundle.path, fix="export it again")
    return [bundle.read(f"golden/{name}") for name in names]


def _pool(contents: Sequence[bytes], kind: str, bundle: Bundle) -> list[Float32 | UInt8]:
    """Real inputs, those of one shape together."""
    inputs = {place: graph_input(kind, bundle.preprocess, content) for place, content in enumerate(contents)}
    return [stacked(inputs[place] for place in places) for places in places_by_shape(inputs)]
