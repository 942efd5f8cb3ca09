"""A bundle becomes a model repository of Triton: configuration, graph, labels, and what KServe needs beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.triton.config_pbtxt import LABELS, ServedGraph, config_of, served_graph
from export.triton.inference_service import (
    TOOLKIT_SERVICE,
    TRITON_SERVICE,
    ServiceFacts,
    toolkit_service,
    triton_service,
)
from export.triton.names import require_model_name
from export.triton.protobuf_text import as_text
from export.triton.release import RELEASE, TritonRelease, fitted
from export.triton.settings import TritonSettings, require_runs, settings_of
from toolkit import __version__
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import refuse_existing, staged_folder
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import stacked
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.session import TEXT_INPUTS, Session
from toolkit.runtime.tensorrt import EngineBuild, require_compilable

WHAT = "Triton repository"
VERSION, GRAPH = "1", "model.onnx"


@dataclass(frozen=True)
class TritonRepository:
    """A repository that was written."""

    path: Path
    model: str
    settings: TritonSettings
    release: TritonRelease
    lowered: bool
    """Whether the file's version was lowered for the release; the graph gives the same bits."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        of_settings = asdict(self.settings)
        return {
            "repository": str(self.path),
            "model": self.model,
            **of_settings,
            "triton": self.release.name,
            "onnxruntime": self.release.onnxruntime,
            "lowered": self.lowered,
        }


def check_repository(
    bundle: Path,
    out: Path,
    *,
    provider: str,
    precision: str | None = None,
    graph_kind: str | None = None,
    force: bool = False,
) -> None:
    """Refuse what would fail later, before the work starts.

    Args:
        bundle: folder of the bundle, which need not be there yet.
        out: folder of the repository to be.
        provider: to run on.
        precision: of the graph, where it is known.
        graph_kind: ``image`` or ``pixel_values``, where it is known.
        force: whether a repository that is there may be replaced.

    Raises:
        ToolkitError: the folder is taken or not apart from the bundle's, the name is none for Triton, the provider
            can't run the graph.
    """
    require_model_name(model_name(bundle))
    inner, outer = out.resolve(), bundle.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        what = "the repository and the bundle can't lie in one another"
        raise ToolkitError(what, where=out, fix="choose another folder")
    refuse_existing(out, what=WHAT, marker=TRITON_SERVICE, replace=force)
    if precision is not None or provider == OPENVINO:
        require_runs(precision or "fp32", provider)
    if provider == "tensorrt" and graph_kind is not None:
        require_compilable([graph_kind])


def model_name(bundle: Path) -> str:
    """What a bundle's folder is called where it was named, whatever a link leads to."""
    return bundle.absolute().name or bundle.resolve().name


def write_repository(
    bundle: Bundle,
    out: Path,
    *,
    provider: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    force: bool = False,
    release: TritonRelease = RELEASE,
) -> TritonRepository:
    """Write a repository with one model: one of a bundle's graphs, called as the bundle's folder.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        out: folder to be; it appears whole or not at all.
        provider: to run on; as tuned, or the CPU, if None.
        precision: of the graph; as tuned, or the bundle's default, if None.
        threads: of a session; as tuned, or this machine's usable cores, if None.
        force: replace a repository that is already there.
        release: of Triton that is to read it.

    Raises:
        CheckFailed: a graph whose file version was lowered gives other bits.
        ToolkitError: a wrong name, folder, provider, precision or graph; see :func:`check_repository`.
    """
    settings = settings_of(bundle, provider, precision, threads)
    check_repository(bundle.path, out, provider=settings.provider, force=force)
    file = bundle.graph_name(settings.precision)
    model, where = model_name(bundle.path), bundle.path / file
    graph, data = bundle.read_graph(file)
    with bundle.parsing(file):
        served = served_graph(graph, where)
        written = fitted(graph, where, release)
    if written != graph:
        _require_same_bits(bundle, settings, graph, written, data)
    if GRAPH in data:
        raise ToolkitError(f"its external data is called {GRAPH}", where=where, fix="export the bundle again")
    config = config_of(model, served, written, settings, _shapes_of_an_example(bundle, served))
    labels = _label_lines(bundle)
    facts = ServiceFacts(model, settings, len(written) + sum(map(len, data.values())))
    with staged_folder(out, what=WHAT, marker=TRITON_SERVICE, replace=force, durable=True) as stage:
        (stage / model / VERSION).mkdir(parents=True)
        head = f"# bundle {model}, manifest {bundle.manifest.manifest_sha256}\n# clip-toolkit {__version__}"
        head += f", for Triton {release.name} (ONNX Runtime {release.onnxruntime})\n"
        (stage / model / "config.pbtxt").write_text(head + as_text(config), encoding="utf-8")
        (stage / model / LABELS).write_bytes(labels)
        (stage / model / VERSION / GRAPH).write_bytes(written)
        for location, content in data.items():
            (stage / model / VERSION / location).parent.mkdir(parents=True, exist_ok=True)
            (stage / model / VERSION / location).write_bytes(content)
        (stage / TRITON_SERVICE).write_text(triton_service(facts, release), encoding="utf-8")
        (stage / TOOLKIT_SERVICE).write_text(toolkit_service(facts), encoding="utf-8")
    return TritonRepository(out, model, settings, release, written != graph)


def _shapes_of_an_example(bundle: Bundle, served: ServedGraph) -> dict[str, tuple[int, ...]]:
    """Shape of each input: an image at the network's size, a text as long as the context."""
    size = bundle.preprocess.output_size
    assert size is not None  # checked when it was read
    text = (bundle.tokenizer.settings.context_length,) if bundle.tokenizer else ()
    known = {"image": (*size, 3)} | dict.fromkeys(TEXT_INPUTS, text)
    return {name: known.get(name, shape) for name, shape in served.inputs.items()}


def _label_lines(bundle: Bundle) -> bytes:
    """The labels, one a line, as Triton reads them.

    Raises:
        ToolkitError: a label has more than one line.
    """
    for label in bundle.labels:
        if label.splitlines() != [label]:
            what = f"Triton reads a label a line, and {label!r} has a line break"
            fix = "name the class in one line and export again"
            raise ToolkitError(what, where=bundle.path / "labels.json", fix=fix)
    return "".join(f"{label}\n" for label in bundle.labels).encode()


def _require_same_bits(
    bundle: Bundle, settings: TritonSettings, graph: bytes, written: bytes, data: Mapping[str, bytes]
) -> None:
    """Raise :class:`CheckFailed` unless both graphs give the same for every golden image, bit for bit."""
    first, second = (
        Session(
            each,
            provider=settings.provider,
            threads=settings.threads,
            where=bundle.path / bundle.graph_name(settings.precision),
            external_data=data,
            build=EngineBuild(1),
        )
        for each in (graph, written)
    )
    golden, reader = bundle.golden(), bundle.reader(first.input)
    texts: Sequence[str | None] = golden.texts or [None] * len(golden.names)
    for name, text in zip(golden.names, texts, strict=True):
        feed = stacked([reader.of_content(bundle.read(f"golden/{name}"), text)])
        outputs, again = first.run(feed), second.run(feed)
        if any(not np.array_equal(outputs[key], again[key]) for key in outputs):
            raise CheckFailed(f"the graph gives other bits for {name} with the older file version")
