"""The machine's own ceilings, measured: a network's matmuls with nothing around them, and copying memory.

All matmuls of a graph stand side by side in one graph without anything between them, in the network's order
and each with a weight matrix of its own, so that weights come from the caches or the memory as they do in the
network. One such graph and not one a shape: the idle threads of a session go on spinning for a while and would
take the cores from the next.
"""

# m, k, n: of a matmul [m, k] x [k, n]

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder
from export.graph.matmul import integer_matmul
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples, Samples, alternate
from export.latency.roofline.work import Matmul, Work
from export.latency.runner import Runner
from toolkit.errors import ToolkitError
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.openvino_session import OpenVinoSession

TORCH = "torch"
RUNTIMES = {"cpu": "onnxruntime", OPENVINO: OPENVINO}
"""What runs the graph on each provider that ceilings are measured on."""
ELEMENTS = {"fp32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.UINT8}
"""Element type of the activations of a matmul, by what the CPU computes it in."""
COPY_BYTES = 256 << 20
"""Of the array that is copied: far larger than the caches."""
COPIES = 12
CHOOSING_RUNS = 5
Array = npt.NDArray[Any]


def computed(matmul: Matmul) -> str:
    """What a CPU computes a matmul in: ONNX Runtime widens fp16 to float32, and so its ceiling is that of fp32."""
    return matmul.precision if matmul.precision in ELEMENTS else "fp32"


def ceiling_engines(work: Work, *, precision: str, threads: int, provider: str = "cpu") -> list[Runner]:
    """The matmuls of a graph as engines to measure beside it: the runtime's, and torch's where it is installed.

    Torch has no matmuls that round as int8 graphs do, so it stands beside graphs without integers.
    What a batch holds is of no matter to these engines; the shapes are those that were counted.

    Raises:
        ToolkitError: another provider than ``cpu`` and ``openvino``.
    """
    if provider not in RUNTIMES:
        what = f"no ceilings are measured on {provider}"
        raise ToolkitError(what, where="--provider", fix=f"use --provider {' or '.join(RUNTIMES)}")
    matmuls_of = openvino_matmuls if provider == OPENVINO else runtime_matmuls
    engines = [Runner(RUNTIMES[provider], precision, provider, threads, matmuls_of(work.matmuls, threads))]
    if find_spec("torch") and all(matmul.precision != "int8" for matmul in work.matmuls):
        engines.append(Runner(TORCH, precision, provider, threads, torch_matmuls(work.matmuls, threads)))
    return engines


def best_seconds(samples: Samples) -> float:
    """Median seconds of a run in an engine's best block: a ceiling is the best that a machine does."""
    return min(samples.block_medians)


def measure_ceilings(
    work: Work, *, precision: str, threads: int, provider: str = "cpu", least: MinSamples | None = None
) -> dict[str, float]:
    """GFLOP/s of all matmuls together by library, in alternating blocks.

    Returns:
        The runtime, and ``torch`` where it is installed and the graph has no integers.
    """
    engines = ceiling_engines(work, precision=precision, threads=threads, provider=provider)
    counted = alternate(engines, [{}], least or MinSamples())
    return {samples.engine.name: work.gflop / best_seconds(samples) for samples in counted}


def matmuls_model(matmuls: Sequence[Matmul], *, standard_ops_only: bool = False) -> onnx.ModelProto:
    """A graph of nothing but matmuls: ``x.NUMBER`` [m, k] times a constant, or times ``w.NUMBER``, is ``y.NUMBER``.

    Matmuls of equal shapes share their inputs and have constants of their own. Activations and results are of the type
    that is multiplied. In standard operators, matmuls of integers take and give floats (bf16 if other matmuls are in
    bf16), and each input is rounded once: OpenVINO multiplies integers only where it sees that rounding.
    """
    builder, rng = GraphBuilder(), np.random.default_rng(0)
    inputs: dict[str, onnx.ValueInfoProto] = {}
    results, levels = [], set[str]()
    floats = "bf16" if any(computed(matmul) == "bf16" for matmul in matmuls) else "fp32"

    def entry(prefix: str, kind: str, shape: Sequence[int]) -> str:
        name = f"{prefix}.{kind}.{'x'.join(map(str, shape))}"
        inputs[name] = helper.make_tensor_value_info(name, ELEMENTS[kind], shape)
        return name

    def rounded(shape: Sequence[int], affine: tuple[str, str]) -> str:
        x = entry("x", floats, shape)
        name = f"{x}/levels"
        if name not in levels:
            levels.add(name)
            given = builder.node("Cast", [x], name=f"{x}/float32", to=TensorProto.FLOAT) if floats == "bf16" else x
            builder.node("QuantizeLinear", [given, *affine], name=name)
        return name

    for number, matmul in enumerate(matmuls):
        kind, to = computed(matmul), f"y.{number}"
        lead = _lead(matmul)
        shape, matrix = [*lead, matmul.m, matmul.k], [*lead, matmul.k, matmul.n]
        element = ELEMENTS[floats if kind == "int8" else kind]
        if kind == "int8":
            weights = [
                builder.constant(rng.integers(-64, 65, matrix, dtype=np.int8), name=f"w.{number}"),
                builder.constant(np.ones(matmul.n, np.float32), name=f"scale.{number}"),
            ]
            affine = builder.constant(np.float32(1 / 32)), builder.constant(np.uint8(128))
            x = rounded(shape, affine) if standard_ops_only else entry("x", kind, shape)
            product = to if floats == "fp32" else f"{to}/float32"
            integer_matmul(builder, x, affine, weights, "", product, standard_ops_only=standard_ops_only)
            if product != to:
                builder.node("Cast", [product], name=to, to=element)
        else:
            x = entry("x", kind, shape)
            if matmul.constant:
                dtype = helper.tensor_dtype_to_np_dtype(element)
                w = builder.constant(_normal(rng, matrix), dtype, name=f"w.{number}")
            else:
                w = entry("w", kind, matrix)
            builder.node("MatMul", [x, w], name=to)
        results.append(helper.make_tensor_value_info(to, element, [*lead, matmul.m, matmul.n]))
    graph = helper.make_graph(
        builder.nodes, "matmuls", list(inputs.values()), results, list(builder.initializers.values())
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def runtime_matmuls(matmuls: Sequence[Matmul], threads: int) -> Callable[[Any], None]:
    """All matmuls in one session with production's options; results of one shape are written to one place.

    Inputs and results stay where they are from run to run, so no time goes into allocating or copying them.
    """
    session = open_model(matmuls_model(matmuls), provider="cpu", threads=threads)._session
    binding, rng = session.io_binding(), np.random.default_rng(1)
    kept, results = [], {}
    for entry in session.get_inputs():
        value = ort.OrtValue.ortvalue_from_numpy(
            _activations(rng, entry.shape, np.uint8 if entry.type == "tensor(uint8)" else np.float32)
        )
        binding.bind_ortvalue_input(entry.name, value)
        kept.append(value)
    for result in session.get_outputs():
        shape = tuple(result.shape)
        if shape not in results:
            results[shape] = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32)
        binding.bind_ortvalue_output(result.name, results[shape])
    places = (kept, results)  # the binding does not keep them

    def run(_: Any, places: Any = places) -> None:
        session.run_with_iobinding(binding)

    return run


def openvino_matmuls(matmuls: Sequence[Matmul], threads: int) -> Callable[[Any], None]:
    """The same matmuls in one session of OpenVINO; results of one shape are written to one place there too."""
    session, rng = open_matmuls(matmuls, threads), np.random.default_rng(1)
    request, results = session._request, dict[tuple[str, str], Any]()
    for port in session._compiled.outputs:
        kind = str(port.shape), port.element_type.get_type_name()
        request.set_tensor(port, results.setdefault(kind, request.get_tensor(port)))
    for port in session._compiled.inputs:
        values = request.get_tensor(port).data
        if port.element_type.get_type_name() == "bf16":
            values.view(np.uint16)[...] = _normal(rng, values.shape).view(np.uint32) >> 16
        else:
            values[...] = _activations(rng, values.shape, values.dtype)

    def run(_: Any, session: OpenVinoSession = session) -> None:
        request.infer()

    return run


def open_matmuls(matmuls: Sequence[Matmul], threads: int) -> OpenVinoSession:
    """A session of OpenVINO of matmuls, with production's options.

    Beside matmuls of bf16 those of fp32 are computed in bf16 too: a head among them takes no time worth counting.
    """
    return OpenVinoSession(
        matmuls_model(matmuls, standard_ops_only=True).SerializeToString(),
        threads=threads,
        properties={"INFERENCE_PRECISION_HINT": "bf16"} if any(each.precision == "bf16" for each in matmuls) else {},
    )


def torch_matmuls(matmuls: Sequence[Matmul], threads: int) -> Callable[[Any], None]:
    """The same matmuls by torch, bf16 in bf16 and others in fp32, each shape in the form that is quickest here."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    inputs: dict[tuple[Any, ...], torch.Tensor] = {}
    results: dict[tuple[Any, ...], torch.Tensor] = {}
    configs: dict[tuple[Any, ...], Callable[..., Any]] = {}
    calls: list[Callable[[], Any]] = []

    def normal(key: tuple[Any, ...]) -> torch.Tensor:
        return torch.randn(key[1], generator=generator).to(key[0])

    def shared(key: tuple[Any, ...]) -> torch.Tensor:
        if key not in inputs:
            inputs[key] = normal(key)
        return inputs[key]

    for matmul in matmuls:
        dtype, lead = torch.bfloat16 if matmul.precision == "bf16" else torch.float32, _lead(matmul)
        sides = (matmul.m, matmul.k), (matmul.k, matmul.n), (matmul.m, matmul.n)
        x, w, y = ((dtype, (*lead, *side)) for side in sides)
        given = shared(x)
        matrix = normal(w) if matmul.constant else shared(w)
        result = results.setdefault(y, torch.empty(y[1], dtype=dtype))
        if lead:
            calls.append(partial(torch.bmm, given, matrix, out=result))
            continue
        shape = dtype, (matmul.m, matmul.k, matmul.n)
        if shape not in configs:
            configs[shape] = _quickest(torch, given, matrix, result)
        calls.append(configs[shape](given, matrix, result))

    @torch.inference_mode()
    def run(_: Any) -> None:
        for call in calls:
            call()

    return run


def _quickest(torch: Any, x: Any, matrix: Any, y: Any) -> Callable[[Any, Any, Any], Callable[[], Any]]:
    """Of a matmul with rows or columns of the matrix in a row in memory, written to a place or not, the quickest."""

    def rows(x: Any, matrix: Any, y: Any) -> Callable[[], Any]:
        return partial(torch.mm, x, matrix, out=y)

    def columns(x: Any, matrix: Any, y: Any) -> Callable[[], Any]:
        return partial(torch.mm, x, matrix.t().contiguous().t(), out=y)

    def linear(x: Any, matrix: Any, y: Any) -> Callable[[], Any]:
        return partial(torch.nn.functional.linear, x, matrix.t().contiguous())

    def seconds(config: Callable[[Any, Any, Any], Callable[[], Any]]) -> float:
        call, times = config(x, matrix, y), []
        for _ in range(CHOOSING_RUNS):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return min(times)

    return min((rows, columns, linear), key=seconds)


def measure_copy(threads: int, *, nbytes: int = COPY_BYTES, copies: int = COPIES) -> float:
    """GiB/s of copying memory with numpy, a part of the array a thread, at its best.

    Bytes read and bytes written are both counted, as the STREAM benchmark does (McCalpin, 1995).
    """
    source, target = np.ones(nbytes // 8), np.zeros(nbytes // 8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(copies + 1):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), parts))
            times.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(times[1:]) / 2**30


def _lead(matmul: Matmul) -> list[int]:
    """Axes before the matrices of a matmul."""
    return [matmul.together] if matmul.together > 1 or not matmul.constant else []


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return rng.standard_normal(shape, np.float32)


def _activations(rng: np.random.Generator, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    return rng.integers(0, 256, shape, dtype=np.uint8) if dtype == np.uint8 else _normal(rng, shape)
