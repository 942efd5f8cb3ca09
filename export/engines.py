"""The same classifier in torch, as an engine to measure beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import torch

from export.latency import Engine
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.runtime.preprocess import Float32

TORCH_ENGINES = ("torch-eager", "torch-compile")


def torch_engine(name: str, classifier: Classifier, *, provider: str, threads: int) -> Engine:
    """Torch in fp32 on the provider's device, with as many threads as ONNX Runtime has.

    Raises:
        ToolkitError: no such engine, or no such device.
    """
    if name not in TORCH_ENGINES:
        fix = f"choose from {', '.join(TORCH_ENGINES)}"
        raise ToolkitError(f"no engine {name!r} to compare with", where="--compare", fix=fix)
    device = "cpu" if provider == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise ToolkitError("torch has no CUDA device", where="--compare", fix="drop --compare, or pass --provider cpu")
    torch.set_num_threads(threads)
    model = classifier.to(device).eval()
    forward: Any = model.reference_logits
    if name == "torch-compile":
        forward = torch.compile(forward)

    @torch.inference_mode()
    def run(pixel_values: Float32) -> Any:
        logits = forward(torch.from_numpy(pixel_values).to(device))
        return model.probabilities(logits).cpu().numpy()  # the copy to the host waits for the device

    return Engine(name, "fp32", provider, threads, run)
