"""TensorRT engines: what one is built for, and the folder that keeps it so that the next process need not build it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from toolkit.errors import ToolkitError
from toolkit.runtime.onnx_file import input_shapes, weight_types

CACHE = "CLIP_TOOLKIT_CACHE"
"""Environment variable that names the folder in which engines are kept; by default below ``~/.cache``."""
INT8, FLOAT16 = 3, 10
"""Of ``TensorProto.DataType``."""
PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


def engine_options(
    graph: bytes, external_data: Mapping[str, bytes] | None = None, batch_size: int | None = None
) -> dict[str, str]:
    """Provider options for an engine that is built once and kept.

    ONNX Runtime finds a kept engine by the names in a graph, not by its weights, so that two classifiers of one
    encoder would get each other's (``TRTGenerateId`` in its TensorRT provider). Here each content, range of shapes
    and version of ONNX Runtime has a folder of its own; ONNX Runtime itself tells GPUs and TensorRT's versions apart.

    Args:
        graph: content of an ONNX file.
        external_data: content of the files that it keeps data in, by their location in it.
        batch_size: most images at once; the engine is quickest at it and takes any number below. Without it, or for
            images of any size, the engine is built for the shapes that arrive, and again for others.

    Returns:
        The profile's shapes, where the engine and the timings of kernels are kept, and whether half floats and
        integers may be computed in: where the graph has such weights.

    Raises:
        ToolkitError: the folder can't be made.
    """
    profile = _profile(graph, batch_size)
    root = cache_folder()
    folder = root / _content(graph, external_data or {}, profile)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        what = f"TensorRT's engines can't be kept here: {error.strerror}"
        raise ToolkitError(what, where=folder, fix=f"set {CACHE} to a folder that can be written to") from error
    types = weight_types(graph)
    return profile | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(root),
        "trt_fp16_enable": "1" if FLOAT16 in types else "0",
        "trt_int8_enable": "1" if INT8 in types else "0",
    }


def cache_folder() -> Path:
    """Where engines are kept. They are code: whoever can write there decides what runs."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).absolute() / "tensorrt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "clip-toolkit" / "tensorrt"


def has_profile(options: Mapping[str, str]) -> bool:
    """Whether an engine takes no other shapes than it was built for."""
    return PROFILES[-1] in options


def _profile(graph: bytes, batch_size: int | None) -> dict[str, str]:
    """Smallest, usual and largest shape of each input; empty where more than the batch may vary."""
    shapes = input_shapes(graph)
    if batch_size is None or any(None in shape[1:] for shape in shapes.values()):
        return {}

    def of(count: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, [count, *shape[1:]]))}" for name, shape in shapes.items())

    return dict(zip(PROFILES, (of(1), of(batch_size), of(batch_size)), strict=True))


def _content(graph: bytes, external_data: Mapping[str, bytes], profile: Mapping[str, str]) -> str:
    """A name for all that an engine depends on."""
    digest = hashlib.sha256(hashlib.sha256(graph).digest())
    for location in sorted(external_data):
        digest.update(location.encode() + b"\0" + hashlib.sha256(external_data[location]).digest())
    digest.update(repr((ort.__version__, sorted(profile.items()))).encode())
    return digest.hexdigest()[:32]
