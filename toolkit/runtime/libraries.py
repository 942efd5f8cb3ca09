"""CUDA's and TensorRT's libraries in Python packages: loaded before a provider looks for them, named where missing."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress

import onnxruntime as ort

INSTALL = {
    "cuda": 'pip install "onnxruntime-gpu[cuda,cudnn]"',
    "tensorrt": 'pip install "onnxruntime-gpu[cuda,cudnn]" "clip-toolkit[tensorrt]"',
}
"""What brings a provider's libraries beside the driver."""
LIBRARIES = re.compile(r"cudnn|cublas|cufft|curand|nvinfer|nvrtc|nvjitlink|cannot open shared object", re.IGNORECASE)


def preload(provider: str) -> None:
    """Load the libraries that lie in packages, where the system's own search does not find them.

    ``onnxruntime.preload_dlls`` knows CUDA's and cuDNN's packages alone; TensorRT's package loads ``libnvinfer``
    itself when it is imported. What is missing is told by the provider, which knows what it needs.
    """
    if provider == "tensorrt":
        with suppress(ImportError, OSError, RuntimeError):
            importlib.import_module("tensorrt")
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def names_a_library(message: str) -> bool:
    """Whether an error of a provider speaks of one of its libraries."""
    return LIBRARIES.search(message) is not None
