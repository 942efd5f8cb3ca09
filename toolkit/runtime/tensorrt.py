"""TensorRT engines: what one is built for, and the folder that keeps it so that the next process need not build it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from toolkit.errors import ToolkitError
from toolkit.runtime.cache_folder import CACHE, cache_folder
from toolkit.runtime.onnx_file import input_shapes, operators

ENGINES = "tensorrt"
"""The folder of engines in this machine's cache."""
TF32 = "NVIDIA_TF32_OVERRIDE"
"""Environment variable of NVIDIA's libraries; ONNX Runtime 1.31 has no option of TensorRT's for it."""
PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


@dataclass(frozen=True)
class EngineBuild:
    """What an engine is built for."""

    batch_size: int | None = None
    """Most images at once; the engine is quickest at it and takes any number below. Without it, or for images of any
    size, the engine is built for the shapes that arrive, and again for others."""
    keep: bool = False
    """Whether it is kept; see :func:`engine_folder`."""


def engine_options(
    graph: bytes, external_data: Mapping[str, bytes], build: EngineBuild, others: Mapping[str, str]
) -> dict[str, str]:
    """Provider options for a graph's engine; from the first call on, no library of this process rounds to TF32.

    Nothing here allows half floats or integers: without that, TensorRT computes in the types that stand in the graph,
    and nodes kept in float32 stay so.

    Args:
        graph: content of an ONNX file.
        external_data: content of the files that it keeps data in, by their location in it.
        build: what the engine is built for.
        others: further options, which may change what is built.

    Raises:
        ToolkitError: the graph takes decoded images, or is made of operators that TensorRT does not know; the folder
            can't be used.
    """
    require_compilable(input_shapes(graph))
    require_standard_operators(graph)
    os.environ.setdefault(TF32, "0")
    options = profile_options(graph, build.batch_size) | dict(others)
    if not build.keep:
        return options
    folder = engine_folder(graph, external_data, build.batch_size, options)
    return options | {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder.parent),
    }


def require_compilable(graph_inputs: Collection[str]) -> None:
    """Raise :class:`ToolkitError` where TensorRT is to run a graph that takes decoded images."""
    if "image" in graph_inputs:
        what = "TensorRT has no float64, in which a graph that takes image computes the weights of its resize"
        raise ToolkitError(what, where="--provider tensorrt", fix="export with --input pixel_values")


def require_standard_operators(graph: bytes) -> None:
    """Raise :class:`ToolkitError` if a graph is made of operators that TensorRT does not know."""
    own = sorted(name for domain, name in operators(graph) if domain == "com.microsoft")
    if own:
        what = f"TensorRT does not know operators of ONNX Runtime's own, such as {own[0]}"
        raise ToolkitError(what, where="--provider tensorrt", fix="export again with --provider tensorrt")


def engine_folder(
    graph: bytes, external_data: Mapping[str, bytes], batch_size: int | None, options: Mapping[str, str]
) -> Path:
    """The folder of an engine, made if it is not there.

    ONNX Runtime finds a kept engine by the names in a graph, not by its weights or how it was built
    (``TRTGenerateId`` in its TensorRT provider), so that two classifiers of one encoder would get each other's. Here
    each content, batch size, set of options and version of ONNX Runtime has a folder of its own; ONNX Runtime itself
    tells TensorRT's versions and compute capabilities apart.

    Raises:
        ToolkitError: it can't be made, or others may write there: an engine is code.
    """
    root = cache_folder(ENGINES)
    digest = hashlib.sha256(hashlib.sha256(graph).digest())
    for location in sorted(external_data):
        digest.update(location.encode() + b"\0" + hashlib.sha256(external_data[location]).digest())
    built = (ort.__version__, batch_size, sorted(options.items()), os.environ.get(TF32))
    digest.update(repr(built).encode())
    folder = root / digest.hexdigest()[:32]
    for each in (root, folder):
        try:
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            what = f"TensorRT's engines can't be kept here: {error.strerror}"
            raise ToolkitError(what, where=each, fix=f"set {CACHE} to a folder that can be written to") from error
        _require_own(each)
    return folder


def has_profile(options: Mapping[str, str]) -> bool:
    """Whether an engine takes no other shapes than it was built for."""
    return PROFILES[-1] in options


def profile_options(graph: bytes, batch_size: int | None) -> dict[str, str]:
    """Smallest, usual and largest shape of each input; empty where more than the batch may vary."""
    shapes = input_shapes(graph)
    if batch_size is None or any(None in shape[1:] for shape in shapes.values()):
        return {}

    def of(count: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, [count, *shape[1:]]))}" for name, shape in shapes.items())

    return dict(zip(PROFILES, (of(1), of(batch_size), of(batch_size)), strict=True))


def _require_own(folder: Path) -> None:
    """Raise unless nobody else may write into a folder that code is loaded from."""
    if not hasattr(os, "geteuid"):
        return
    found = folder.lstat()
    fault = (
        "it is a link"
        if stat.S_ISLNK(found.st_mode)
        else "it belongs to another user"
        if found.st_uid not in (os.geteuid(), 0)
        else "others may write to it"
        if found.st_mode & 0o022
        else None
    )
    if fault:
        what = f"TensorRT's engines, which are code, can't be loaded from here: {fault}"
        raise ToolkitError(what, where=folder, fix=f"remove it, or set {CACHE} to a folder of your own")
