"""Sessions of OpenVINO: the same graph and the same calls as ONNX Runtime's, another engine, on CPUs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from toolkit.errors import ToolkitError
from toolkit.runtime import onnx_file
from toolkit.runtime.inputs import Feed, TensorSpec
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.memory import return_freed
from toolkit.runtime.node_profile import ExecutedNode
from toolkit.runtime.onnx_file import external_files, files_of_inner_tensors, input_shapes, metadata, operators
from toolkit.runtime.openvino_library import OPENVINO, core, floats_of, load_openvino, why_not
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Session

if TYPE_CHECKING:
    import onnxruntime as ort

GRAPH = "graph.onnx"
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
"""numpy's names of ONNX's element types."""
FIX = "export again with --provider openvino"


class OpenVinoSession(Session):
    """A graph that OpenVINO compiled for this machine's processor."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        where: Path | None = None,
        external_data: Mapping[str, bytes] | Path | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Compile a graph; see :class:`toolkit.runtime.session.Session` for the arguments.

        Every node is computed in the type that the graph says, float32, bfloat16 or integers, and in none that OpenVINO
        would choose by itself; but where the graph's metadata asks for it (:func:`floats_of`), what is float32 in it is
        computed in bfloat16. No file is read but those that are given as a path: a graph in bytes whose data is in
        bytes too goes through a folder of its own that nobody else may write to.

        Args:
            model: an ONNX file, or its bytes.
            threads: threads of the session; the usable cores unless given.
            where: what errors call the graph, if it is given as bytes.
            external_data: content of the files that it keeps data in, or the folder that holds them.
            properties: of OpenVINO's CPU plugin, beside production's own.

        Raises:
            ToolkitError: the package is not there; the graph is not in standard operators, takes decoded images, or
                can't be compiled; the processor has no arithmetic for it.
        """
        library = load_openvino()
        self.provider = OPENVINO
        self.threads = threads or usable_cores()
        self.largest_batch = None
        self.where = where or (model if isinstance(model, Path) else Path("graph in memory"))
        self.active_providers = ["OpenVINO"]
        try:
            graph, data = _contents(model, external_data)
            _require_runnable(graph, self.where)
            self._metadata = metadata(graph)
            self.inputs = _specs(onnx_file.inputs(graph))
            self.given = _specs(onnx_file.outputs(graph))
            read = _read(graph, data)
            constants = (op for op in read.get_ops() if op.get_type_name() == "Constant")
            half = any(op.get_element_type() == library.Type.bf16 for op in constants)
            if half and (reason := why_not("bf16")):
                raise ToolkitError(reason, where=self.where, fix="use fp32 or int8")
            chosen = production_properties(self.threads)
            if floats_of(self._metadata) == "bf16":
                chosen["INFERENCE_PRECISION_HINT"] = "bf16"
            chosen |= dict(properties or {})
            self._compiled = core().compile_model(read, "CPU", chosen)
            self._request = self._compiled.create_infer_request()
            self._read = {name for port in self._compiled.inputs for name in port.get_names()}
            """Names of the inputs that something reads; OpenVINO leaves out the others."""
            ports = enumerate(self._compiled.outputs)
            self._places = {name: place for place, port in ports for name in port.get_names()}
        except ToolkitError:
            raise
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            what = f"OpenVINO can't open the graph: {' '.join(str(error).split())[:300]}"
            raise ToolkitError(what, where=self.where, fix=FIX) from error
        self._alone = threading.Lock()
        """A request of OpenVINO's computes one feed at a time."""
        return_freed()

    @property
    def metadata(self) -> dict[str, str]:
        """The graph's own key-value pairs (``metadata_props``)."""
        return dict(self._metadata)

    def close(self) -> None:
        """Free the graph; what it takes and where it ran stay known, and it computes nothing any more."""
        del self._request, self._compiled
        return_freed()

    def compute(self, names: Sequence[str], feed: Feed) -> list[Float32]:
        """Compute outputs by name of inputs by name, unchecked; what the graph doesn't take is left out."""
        taken = {name: values for name, values in feed.items() if name in self._read}
        with self._running(), self._alone:
            results = self._request.infer(taken, share_inputs=True)
            return [results[self._places[name]] for name in names]

    def bind(self, feed: Mapping[str, ort.OrtValue]) -> NoReturn:
        """Refused: on a CPU an array is read where it lies."""
        what = "memory is bound by ONNX Runtime alone"
        raise ToolkitError(what, where="--provider openvino", fix="run the feed itself")

    def executed_nodes(self, feed: Feed, runs: int = 1) -> list[ExecutedNode]:
        """Run and tell which nodes the compiled graph has, with the type that each computes in."""
        for _ in range(runs):
            self.run(feed)
        executed = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            if facts.get("layerType") not in (None, "Input", "Output", "Const", "Parameter", "Result"):
                name = node.get_friendly_name()
                kind, element = facts["layerType"], facts.get("runtimePrecision", "")
                executed.append(ExecutedNode(name, kind, "OpenVINO", element=element))
        return executed

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Turn what OpenVINO raises of a graph that doesn't compute into one line."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            what = f"the graph can't be computed: {' '.join(str(error).split())[:300]}"
            raise ToolkitError(
                what, where=self.where, fix="give smaller batches, or export the bundle again"
            ) from error


def production_properties(threads: int) -> dict[str, Any]:
    """Properties of every session.

    The hint has what is float32 in the graph computed in float32: unless told, OpenVINO takes bfloat16 for it wherever
    the processor has that. What the graph has in bfloat16 stays so.
    A session has one stream, and its threads are its own: several sessions side by side are what ``tune`` lays out.
    Threads are pinned to no core, since sessions, servers and containers share them.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


def _specs(values: Mapping[str, tuple[int, tuple[int | str | None, ...]]]) -> dict[str, TensorSpec]:
    """Inputs or outputs as the graph states them."""
    return {name: TensorSpec(name, DTYPES.get(kind, f"type {kind}"), shape) for name, (kind, shape) in values.items()}


def _require_runnable(graph: bytes, where: Path) -> None:
    """Raise :class:`ToolkitError` if a graph is made of ONNX Runtime's operators, or resizes images itself."""
    own = sorted(name for domain, name in operators(graph) if domain == "com.microsoft")
    if own:
        what = f"OpenVINO runs standard operators, not ONNX Runtime's own, such as {own[0]}"
        raise ToolkitError(what, where=where, fix=FIX)
    if "image" in input_shapes(graph):
        what = "OpenVINO has no float64, in which a graph that takes image computes the weights of its resize"
        raise ToolkitError(what, where=where, fix=f"{FIX}, for which graphs take pixel_values")


def _contents(
    model: Path | bytes, external_data: Mapping[str, bytes] | Path | None
) -> tuple[bytes, Mapping[str, bytes] | Path]:
    """A graph's bytes, and its external data in memory or the folder that holds it.

    Raises:
        ValueError: data that is named in the graph was not given.
    """
    graph, data = (model, external_data or {}) if isinstance(model, bytes) else (model.read_bytes(), model.parent)
    locations = external_files(graph)
    for location in sorted(locations - set(data) if not isinstance(data, Path) else ()):
        raise ValueError(f"its external data {location!r} was not given")
    for location in sorted(files_of_inner_tensors(graph)):
        raise ValueError(f"external data ({location!r}) of anything but an initializer of the main graph")
    return graph, data if locations else {}


def _read(graph: bytes, data: Mapping[str, bytes] | Path) -> Any:
    """OpenVINO's model of a graph; it looks for external data beside a file, so that is where it is put."""
    if not data:
        return core().read_model(graph)
    with TemporaryDirectory(prefix="clip-toolkit-", ignore_cleanup_errors=True) as folder:
        for location in external_files(graph):
            if Path(location).name != location or location == GRAPH:
                raise ValueError(f"its external data {location!r} does not lie beside it")
            if isinstance(data, Path):
                _place(data / location, Path(folder) / location)
            else:
                (Path(folder) / location).write_bytes(data[location])
        path = Path(folder) / GRAPH
        path.write_bytes(graph)
        return core().read_model(path)


def _place(file: Path, at: Path) -> None:
    """Have a file in another place too, without a copy where the system allows."""
    try:
        os.link(file, at)
    except OSError:
        at.write_bytes(file.read_bytes())
