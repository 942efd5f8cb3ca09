"""Latency of classifiers on different encoders: the graph of each as it would ship, measured in turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.external_data import save_graph
from export.latency.measure import MinSamples, measure
from export.latency.pool import Pool, same_shape
from export.latency.runner import Runner
from export.latency.system_monitor import monitored
from toolkit.models.classifier import Classifier
from toolkit.progress import SILENT, Progress
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

INPUT: GraphInput = "image"
"""What the graphs take: images as they are decoded, of the export's default."""
IMAGES = 32
"""That latency is measured on, at most."""
LEAST = MinSamples(runs=50, seconds=1.0)


@dataclass(frozen=True)
class Latencies:
    """What was measured."""

    rows: dict[str, dict[str, Any]]
    """Of each graph by its name, as in ``latency.json``: an image at a time."""
    machine: dict[str, Any]
    shape: tuple[int, int]
    """[height, width] of the images."""


def write_graph(classifier: Classifier, preprocess: Preprocess, file: Path) -> int:
    """Write a classifier's graph in fp32, with preprocessing inside; its size in bytes, with a data file beside it.

    Args:
        classifier: in eval mode, float32, on the CPU.
        preprocess: of its encoder.
        file: to write.

    Raises:
        ToolkitError: preprocessing that a graph can't express, or an encoder that can't be traced.
    """
    save_graph(build_graph(classifier, preprocess, {}, INPUT), file)
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def latencies(
    graphs: Mapping[str, Path], preprocess: Preprocess, contents: Iterable[bytes], progress: Progress = SILENT
) -> Latencies:
    """Measure graphs at batch 1 on the CPU, in alternating blocks, on the same images.

    Args:
        graphs: files that :func:`write_graph` wrote, by name.
        preprocess: of any of them: images are decoded alone.
        contents: encoded images.
        progress: told how it goes on.
    """
    feed = same_shape(INPUT, preprocess, contents, IMAGES)
    with monitored("cpu") as conditions:
        engines = []
        for name, file in graphs.items():
            session = Session(file, provider="cpu")
            engines.append(Runner(name, "fp32", "cpu", session.threads, session.run, session.input))
        rows = measure(engines, Pool([], [feed], "validation"), [1], LEAST, progress=progress)
    machine = describe_machine() | {"versions": {"onnxruntime": ort.__version__}} | conditions.facts
    return Latencies({row["engine"]: row for row in rows}, machine, feed[INPUT].shape[1:3])  # type: ignore[arg-type]
