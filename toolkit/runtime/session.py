"""ONNX Runtime sessions with production's options, on the provider that was asked for."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from toolkit.errors import ToolkitError
from toolkit.runtime.inputs import IMAGE_MASK, Feed, TensorSpec, examples_in, part_of
from toolkit.runtime.libraries import INSTALL, names_a_library, preload
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.memory import return_freed
from toolkit.runtime.node_profile import ExecutedNode, nodes_of
from toolkit.runtime.onnx_file import external_files, files_of_inner_tensors
from toolkit.runtime.precision import SPECS
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.providers import PROVIDER_OPTIONS, PROVIDERS, provider_name
from toolkit.runtime.tensorrt import EngineBuild, engine_options, has_profile

OUTPUTS = ("logits", "probabilities")
"""What every graph gives, each float32 [batch, classes]."""
OF_NUMBER = ("logits", "value")
"""But one that predicts a number: twice that, float32 [batch, 1]."""
IMAGE_INPUTS = ("image", "pixel_values")
"""The ways in which a graph takes an image: as decoded, or preprocessed."""
TEXT_INPUTS = ("input_ids", "attention_mask")
"""How a graph takes a text."""
Outputs = dict[str, Float32]
"""Results by name."""
UNKNOWN_BATCH = EngineBuild()
RUN_ERRORS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Classes of ONNX Runtime's own errors, which have no base class in common."""
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int64)": "int64"}
"""numpy's names of the types that ONNX Runtime states."""
DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's name of where a graph in memory keeps its data."""
PROBES = Path(__file__).parent.parent / "assets" / "probes"
"""A graph of a 1x1 convolution and a matmul for each precision, whose result is the same whole numbers in all."""
PROBE = PROBES / "fp32.onnx"
PROBED = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4) % 5
"""What the probes take."""

ort.set_default_logger_severity(4)


class Session:
    """A loaded graph: named tensors in, ``logits`` and ``probabilities`` out."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        where: Path | None = None,
        external_data: Mapping[str, bytes] | Path | None = None,
        record_nodes: bool = False,
        session_options: Mapping[str, str] | None = None,
        provider_options: Mapping[str, str] | None = None,
        build: EngineBuild = UNKNOWN_BATCH,
    ) -> None:
        """Load a graph.

        Args:
            model: an ONNX file, or its bytes.
            provider: ``cpu``, ``cuda`` or ``tensorrt``; another than the one asked for is never used.
            threads: threads of one operator; the usable cores unless given.
            where: what errors call the graph, if it is given as bytes.
            external_data: content of the files that a graph given as bytes keeps data in, by their location in
                it. No file is opened for such a graph; ONNX Runtime copies what it needs before this returns. A folder
                in their place is where ONNX Runtime maps them from, unchecked.
            record_nodes: whether :meth:`executed_nodes` will be asked for.
            session_options: entries of the session's configuration beside production's own.
            provider_options: of the provider, beside ``PROVIDER_OPTIONS``.
            build: what TensorRT builds its engine for; other providers have no use for it.

        Raises:
            ToolkitError: the provider is unknown, not there, or fell back; the graph can't be loaded.
        """
        self.provider = provider
        self.threads = threads or usable_cores()
        self.largest_batch: int | None = None
        """Most images that a run takes; None for any number."""
        where = where or (model if isinstance(model, Path) else Path("graph in memory"))
        requested = provider_name(provider)
        options = _production_options(self.threads, session_options or {})
        self._profiles = tempfile.TemporaryDirectory(prefix="clip-toolkit-") if record_nodes else None
        if self._profiles is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "nodes")
        chosen = PROVIDER_OPTIONS.get(provider, {}) | dict(provider_options or {})
        try:
            if isinstance(external_data, Path):
                options.add_session_config_entry(DATA_FOLDER, str(external_data))
            elif isinstance(model, bytes):
                _give_external_data(options, model, external_data or {})
            if provider == "tensorrt":
                graph, data = _contents(model, external_data or {})
                chosen = engine_options(graph, data, build, chosen)
                self.largest_batch = build.batch_size if has_profile(chosen) else None
            # onnxruntime prints why a provider does not load; standard output belongs to the caller
            with redirect_stdout(io.StringIO()) as said:
                if provider != "cpu":
                    preload(provider)
                self._session = ort.InferenceSession(
                    model if isinstance(model, bytes) else str(model),
                    options,
                    providers=[(requested, chosen)],
                    enable_fallback=0,
                )
        except ToolkitError:
            raise
        except Exception as error:
            # onnxruntime raises a dozen unrelated classes here, each for a file or library the user can replace
            raise _refusal(error, provider, where, chosen.get("trt_engine_cache_path")) from error
        active = self._session.get_providers()
        if active[0] != requested:
            reason = _one_line(said.getvalue())
            raise ToolkitError(
                f"{requested} was asked for, but ONNX Runtime fell back to {active[0]}: {reason}".rstrip(": "),
                where=where,
                fix="run toolkit doctor, or pass --provider cpu",
            )
        self.active_providers = active
        self.where = where
        """The graph's file, or what errors call it."""
        return_freed()  # loading took what the graph weighs once more

    @property
    def metadata(self) -> dict[str, str]:
        """The graph's own key-value pairs (``metadata_props``)."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @cached_property
    def inputs(self) -> dict[str, TensorSpec]:
        """What the graph takes, by name."""
        return {
            value.name: TensorSpec(value.name, DTYPES.get(value.type, value.type), tuple(value.shape))
            for value in self._session.get_inputs()
        }

    @cached_property
    def input(self) -> str:
        """How the graph takes its image: ``image`` or ``pixel_values``; ``input_ids`` where it takes texts alone.

        Raises:
            ToolkitError: none of these, or something else than a text beside an image.
        """
        images = [name for name in self.inputs if name in IMAGE_INPUTS]
        others = set(self.inputs) - set(images)
        if others == set(TEXT_INPUTS) and not images:
            return TEXT_INPUTS[0]
        if len(images) != 1 or not others <= {*TEXT_INPUTS, IMAGE_MASK} or (others and not others >= set(TEXT_INPUTS)):
            what = f"the graph takes {', '.join(self.inputs)}, neither an image, nor a text, nor both"
            raise ToolkitError(what, where=self.where, fix="give a graph that toolkit export wrote")
        return images[0]

    @property
    def takes_text(self) -> bool:
        """Whether the graph takes a text."""
        return set(TEXT_INPUTS) <= set(self.inputs)

    @property
    def takes_missing(self) -> bool:
        """Whether image or text may be missing."""
        return IMAGE_MASK in self.inputs

    @cached_property
    def given(self) -> dict[str, TensorSpec]:
        """What the graph gives, by name."""
        return {
            value.name: TensorSpec(value.name, DTYPES.get(value.type, value.type), tuple(value.shape))
            for value in self._session.get_outputs()
        }

    @cached_property
    def outputs(self) -> list[str]:
        """Names of what the graph gives, the first two :attr:`main_outputs`."""
        return [*self.main_outputs, *(name for name in self.given if name not in self.main_outputs)]

    @cached_property
    def main_outputs(self) -> tuple[str, ...]:
        """:data:`OUTPUTS`, or of a graph that predicts a number :data:`OF_NUMBER`."""
        given = set(self.given)
        return OF_NUMBER if OUTPUTS[1] not in given and set(OF_NUMBER) <= given else OUTPUTS

    @cached_property
    def classes(self) -> int | None:
        """Logits of an image, as the graph states them; None where it doesn't, or has other outputs or types."""
        shapes = {name: spec.shape for name, spec in self.given.items() if spec.dtype == "float32"}
        stated = [shapes.get(name, ()) for name in self.main_outputs]
        widths = {shape[1] for shape in stated} if all(len(shape) == 2 for shape in stated) else set()
        width = next(iter(widths)) if len(widths) == 1 else None
        return width if isinstance(width, int) else None

    def close(self) -> None:
        """Free the graph; what it takes and where it ran stay known, and it computes nothing any more."""
        _ = self.inputs, self.given
        del self._session
        return_freed()

    def run(self, feed: Feed) -> Outputs:
        """Compute all outputs, of which ``logits`` and ``probabilities`` are [batch, classes].

        Args:
            feed: tensors by name, as :attr:`inputs` says: ``image``, uint8 [batch, height, width, 3] in RGB, or
                ``pixel_values``, float32 [batch, 3, height, width].

        Raises:
            ToolkitError: a tensor that the graph doesn't take, or lacks; another type or shape, or no pixel.
        """
        self._check(feed)
        outputs = dict(zip(self.outputs, self.compute(self.outputs, feed), strict=True))
        shape = (examples_in(feed), self.classes)
        if self.classes is not None and any(np.shape(outputs[name]) != shape for name in self.main_outputs):
            shapes = list(np.shape(outputs["logits"]))
            what = f"the graph gave logits of shape {shapes}, not the {list(shape)} that it states"
            raise ToolkitError(what, where=self.where, fix="give a graph that toolkit export wrote")
        return outputs

    def compute(self, names: Sequence[str], feed: Feed) -> list[Float32]:
        """Compute outputs by name of inputs by name, unchecked; what the graph doesn't take is left out."""
        taken = {name: values for name, values in feed.items() if name in self.inputs}
        with self._running():
            outputs: list[Float32] = self._session.run(list(names), taken)
        return outputs

    def bind(self, feed: Mapping[str, ort.OrtValue]) -> ort.IOBinding:
        """Bind the outputs, and the inputs to memory of their own; for :class:`toolkit.runtime.binding.Binding`."""
        bound = self._session.io_binding()
        for name, values in feed.items():
            self._require_built_for(values.shape()[0])
            bound.bind_ortvalue_input(name, values)
            device = values.device_name()
        for name in self.outputs:
            bound.bind_output(name, device)
        return bound

    def run_bound(self, bound: ort.IOBinding) -> None:
        """Run what is bound; returns when the device is done."""
        with self._running():
            self._session.run_with_iobinding(bound)
            bound.synchronize_outputs()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Turn what ONNX Runtime raises of a graph that doesn't compute into one line."""
        try:
            yield
        except RUN_ERRORS as error:
            what = f"the graph can't be computed: {' '.join(str(error).split())}"
            fix = "give smaller batches, or export the bundle again"
            if self.provider in INSTALL and names_a_library(str(error)):
                fix = f"run toolkit doctor, or {INSTALL[self.provider]}"
            raise ToolkitError(what, where=self.where, fix=fix) from error

    def run_batches(self, feed: Feed, most: int) -> Outputs:
        """Like :meth:`run`, over any number of images, ``most`` at a time."""
        starts = range(0, examples_in(feed), most)
        parts = [self.run(part_of(feed, slice(start, start + most))) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def executed_nodes(self, feed: Feed, runs: int = 1) -> list[ExecutedNode]:
        """Run and tell which nodes ran where, and for how long; only once, and only with ``record_nodes``."""
        if self._profiles is None:
            raise RuntimeError("the session was not opened with record_nodes")
        for _ in range(runs):
            self.run(feed)
        events = json.loads(Path(self._session.end_profiling()).read_bytes())
        self._profiles.cleanup()
        return nodes_of(events, runs)

    def _check(self, feed: Feed) -> None:
        """Raise unless the tensors are what the graph takes; its own errors name nodes, not mistakes."""
        for name in sorted(set(feed) ^ set(self.inputs)):
            what = f"the graph takes no {name}" if name in feed else f"the graph takes {name} too"
            fix = f"give {', '.join(self.inputs)}"
            raise ToolkitError(f"{what}", where=self.where, fix=fix)
        for name, array in feed.items():
            if not self.inputs[name].fits(array):
                spec = self.inputs[name]
                what = f"{name} must be {spec.dtype} [{', '.join(map(str, spec.shape))}] with at least one pixel"
                what += f", not {array.dtype} {list(array.shape)}"
                raise ToolkitError(what, where=self.where, fix="pass decoded RGB images, or what Preprocess gives")
        self._require_built_for(examples_in(feed))

    def _require_built_for(self, images: int) -> None:
        """Raise if a batch is larger than any that TensorRT's engine takes."""
        if self.largest_batch is not None and images > self.largest_batch:
            what = f"the engine was built for batches of up to {self.largest_batch} images, not {images}"
            raise ToolkitError(what, where=self.where, fix="open the session with a larger batch_size")


def loadable_providers() -> dict[str, str | None]:
    """Each provider that this build knows, with None if it really computes in fp32, else the reason why not."""
    return {name: reasons["fp32"] for name, reasons in probed_providers().items()}


def probed_providers() -> dict[str, dict[str, str | None]]:
    """By provider and precision that it is said to run, None if it computes, else the reason why not."""
    return {
        name: {spec.name: probe(name, spec.name) for spec in SPECS.values() if name in spec.providers}
        for name in PROVIDERS
    }


def probe(provider: str, precision: str = "fp32") -> str | None:
    """Compute a convolution and a matmul on a provider; why that doesn't work, or None.

    A provider loads without libraries that it needs later: CUDA's without cuDNN fails at the first convolution.
    """
    if PROVIDERS[provider] not in ort.get_available_providers():
        return "not in this build of ONNX Runtime"
    try:
        expected = _probed("cpu", "fp32")
        given = _probed(provider, precision)
    except ToolkitError as error:
        return error.what
    return None if np.array_equal(given, expected) else "it gives other numbers than the CPU"


def _probed(provider: str, precision: str) -> Float32:
    """What a probe gives."""
    session = Session((PROBES / f"{precision}.onnx").read_bytes(), provider=provider, threads=1, where=PROBE)
    return session.compute(["y"], {"x": PROBED})[0]


def require_active(provider: str) -> None:
    """Raise unless a provider really computes.

    Raises:
        ToolkitError: it is unknown, not there, fell back, or lacks a library.
    """
    provider_name(provider)
    reason = probe(provider)
    if reason is not None:
        fix = f"run toolkit doctor, {INSTALL[provider]}, or pass --provider cpu" if provider in INSTALL else "reinstall"
        raise ToolkitError(f"{PROVIDERS[provider]} does not run: {reason}", where="--provider", fix=fix)


def _production_options(threads: int, entries: Mapping[str, str]) -> ort.SessionOptions:
    """Options of every session, with further entries of its configuration."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    # otherwise bytes in ONNX Runtime's own format would be taken too, which nothing here looks into
    options.add_session_config_entry("session.load_model_format", "ONNX")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _contents(model: Path | bytes, external_data: Mapping[str, bytes] | Path) -> tuple[bytes, Mapping[str, bytes]]:
    """A graph's bytes and those of its external data, in memory or in files."""
    if isinstance(model, bytes) and not isinstance(external_data, Path):
        return model, external_data
    graph, folder = (model, external_data) if isinstance(model, bytes) else (model.read_bytes(), model.parent)
    assert isinstance(folder, Path)
    return graph, {location: (folder / location).read_bytes() for location in external_files(graph)}


def _give_external_data(options: ort.SessionOptions, graph: bytes, data: Mapping[str, bytes]) -> None:
    """Have a graph's external data read from memory alone.

    Raises:
        ValueError: ONNX Runtime would look for a file, below the working directory. It does so for all that
            is not given, and, as measured with 1.31, for tensors of subgraphs and sparse ones even then.
    """
    for location in sorted(external_files(graph) - set(data)):
        raise ValueError(f"its external data {location!r} was not given")
    for location in sorted(files_of_inner_tensors(graph)):
        raise ValueError(f"external data ({location!r}) of anything but an initializer of the main graph")
    if data:
        options.add_external_initializers_from_files_in_memory(
            list(data), list(data.values()), [len(content) for content in data.values()]
        )


def _refusal(error: Exception, provider: str, where: Path, engine: str | None) -> ToolkitError:
    """What a user can do about a graph that ONNX Runtime does not open."""
    newer = re.search(r"Opset (\d+) is under development.* till opset (\d+)", str(error), re.DOTALL)
    if newer:
        what = f"the graph has opset {newer[1]}, but onnxruntime {ort.__version__} runs up to {newer[2]}"
        return ToolkitError(what, where=where, fix="upgrade onnxruntime, or export the bundle again")
    what = f"ONNX Runtime can't open the graph on {PROVIDERS[provider]}: {_one_line(str(error))}"
    fix = "export the bundle again" if provider == "cpu" else "run toolkit doctor, or pass --provider cpu"
    if engine and "deserialize" in str(error):  # a process was stopped while it wrote
        fix = f"remove {engine}"
    return ToolkitError(what, where=where, fix=fix)


def _one_line(text: str) -> str:
    """First line that says something, without the C++ signature that onnxruntime puts before it."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.sub(r"^/onnxruntime_src/.*?\) (?=[A-Z])", "", line)
