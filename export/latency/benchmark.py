"""Measure a bundle on this machine and write the figures into it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.latency.engine import onnxruntime_engine
from export.latency.measure import Least, measure
from export.latency.pool import POOL, enlarged, golden_contents, pool_of
from toolkit.files import write_json
from toolkit.reporting.describe import describe
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.session import require_precision, runnable

LEAST = Least()
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
    least: Least = LEAST,
    precision: str | None = None,
    threads: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure ONNX Runtime, and torch beside it where asked; see :func:`export.latency.measure.measure`.

    Without ``precision``, every graph that the provider runs is measured, the bundle's default first.

    Returns:
        The content of ``latency.json``, which is written into the bundle with a plot.
    """
    bundle.check_files()
    measured = [require_precision(precision, provider)] if precision else runnable(bundle.precisions, provider)
    engines = [onnxruntime_engine(bundle, provider=provider, threads=threads, precision=each) for each in measured]
    engine = engines[0]
    versions: dict[str, str] = {"onnxruntime": ort.__version__}
    contents, source = golden_contents(bundle)
    if compare.engines:
        import torch

        from export.bundle import run_of
        from export.latency.torch_engine import torch_engine

        reference = run_of(bundle, compare.run)
        held_out = [example.read() for example in reference.held_out(POOL)]
        contents, source = enlarged(held_out, "held-out images of the run's data set")
        for name in compare.engines:
            engines.append(torch_engine(name, reference, engine))
        versions["torch"] = torch.__version__
    pool = pool_of(bundle, engine.input, contents, source)
    rows = measure(engines, pool, batch_sizes, least, advance=advance)
    latency = {
        "rows": rows,
        "machine": describe_machine() | {"versions": versions},
        "inputs": {
            **pool.describe(),
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
        from toolkit.reporting.latency_plot import plot_measured

        plot_measured(latency, bundle.path / "plots")
    describe(bundle.path, bundle.manifest)
    bundle.update_manifest()
