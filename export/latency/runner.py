"""What is measured: something that turns a batch of images into probabilities, synchronously."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolkit.errors import ToolkitError
from toolkit.runtime.binding import Binding
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Feed, Shapes, examples_in, shapes_of
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.session import Session

SPINNING: Final = "session.intra_op.allow_spinning"
"""Whether the threads of a pool wait busily for the next operator: ONNX Runtime's default."""


@dataclass(frozen=True)
class Block:
    """Runs that were counted one after the other."""

    seconds: tuple[float, ...]
    device_seconds: tuple[float, ...] = ()
    """What the device itself took, where its events tell."""


@dataclass(frozen=True)
class Runner:
    """An engine that runs a batch."""

    name: str
    precision: str
    provider: str
    threads: int
    run: Callable[[Any], Any]
    """Of a feed, from host memory to host memory: it returns when the result is there, so that a clock around it is
    honest on a GPU too."""
    input: str = "pixel_values"
    """What a batch holds: ``pixel_values`` or ``image``."""
    device_seconds: Callable[[], float] | None = None
    """Seconds that the device itself took for the last run, by its own events; None on a CPU."""

    def timed(self, batch: Feed) -> float:
        """Seconds of one run."""
        started = time.perf_counter()
        self.run(batch)
        return time.perf_counter() - started

    def warm_up(self, batches: Sequence[Feed], runs: int) -> list[float]:
        """Run without counting; seconds of each run."""
        return [self.timed(batches[number % len(batches)]) for number in range(runs)]

    def measure(self, batches: Sequence[Feed], runs: int, first: int = 0) -> Block:
        """Count runs over a pool of batches, from its ``first`` one on and round again."""
        seconds, device = [], []
        for number in range(first, first + runs):
            seconds.append(self.timed(batches[number % len(batches)]))
            if self.device_seconds:
                device.append(self.device_seconds())
        return Block(tuple(seconds), tuple(device))


def onnxruntime_engine(
    bundle: Bundle,
    *,
    provider: str,
    threads: int | None,
    precision: str,
    session_options: Mapping[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
    batch_size: int | None = None,
) -> Runner:
    """The bundle's graph as production opens it, on the provider asked for or not at all.

    Threads and spinning are never those of ``serving.json``: bundles and precisions that are set side by side get
    the same ones. TensorRT's engine is built for ``batch_size``; without it each batch size that comes has a session.
    """

    def open_session(most: int) -> Session:
        return bundle.session(
            provider=provider,
            threads=threads or usable_cores(),
            precision=precision,
            session_options={} if provider == OPENVINO else {SPINNING: "1"} | dict(session_options or {}),
            provider_options=provider_options or {},
            batch_size=most,
        )

    session = open_session(batch_size or 1)
    sessions = {1: session}

    def run(batch: Feed) -> Any:
        size = examples_in(batch)
        if size not in sessions:
            sessions[size] = open_session(size)
        return sessions[size].run(batch)

    by_size = provider == "tensorrt" and batch_size is None
    engine = OPENVINO if provider == OPENVINO else "onnxruntime"
    return Runner(engine, precision, provider, session.threads, run if by_size else session.run, session.input)


BOUND = {"onnxruntime-bound": {}, "onnxruntime-cuda-graph": {"enable_cuda_graph": "1"}}
"""Engines whose inputs and outputs stay on the device, and the provider options that each takes."""


def bound_engine(name: str, bundle: Bundle, beside: Runner) -> Runner:
    """The graph of another engine with memory bound for each shape, on a CUDA device also replayed as a CUDA graph.

    Raises:
        ToolkitError: a CUDA graph was asked for on another provider, or ONNX Runtime can't capture this graph.
    """
    if name == "onnxruntime-cuda-graph" and beside.provider != "cuda":
        what = f"a CUDA graph needs --provider cuda, not {beside.provider}"
        raise ToolkitError(what, where="--compare", fix="compare with onnxruntime-bound")

    if beside.provider == OPENVINO:
        what = "OpenVINO reads arrays where they lie, and binds no memory"
        raise ToolkitError(what, where="--compare", fix=f"drop {name}, or pass --provider cpu")

    def open_session(batch_size: int) -> Session:
        return bundle.session(
            provider=beside.provider,
            threads=beside.threads,
            precision=beside.precision,
            session_options={SPINNING: "1"},
            provider_options=BOUND[name],
            batch_size=batch_size,
        )

    shared = open_session(1)
    bindings: dict[Shapes, Binding] = {}
    # a session replays the one CUDA graph that it captured, and an engine is built for its batch
    own_sessions = bool(BOUND[name]) or beside.provider == "tensorrt"

    def run(batch: Feed) -> Any:
        shapes = shapes_of(batch)
        if shapes not in bindings:
            session = open_session(examples_in(batch)) if own_sessions else shared
            bindings[shapes] = Binding(session, dict(shapes))
        return bindings[shapes].run(batch)

    return Runner(name, beside.precision, beside.provider, beside.threads, run, beside.input)
