"""The same classifier in torch, as an engine to measure beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from export.latency.engine import Engine
from export.run import Run
from toolkit.errors import ToolkitError
from toolkit.runtime.preprocess import Float32, UInt8

TORCH_ENGINES = ("torch-eager", "torch-compile")


def torch_engine(name: str, run: Run, beside: Engine) -> Engine:
    """Torch in fp32 with the device, the threads and the inputs of the engine that it stands beside.

    Where that one takes decoded images, so does torch, through the training-time image processor.

    Raises:
        ToolkitError: no such engine, or no such device.
    """
    if name not in TORCH_ENGINES:
        fix = f"choose from {', '.join(TORCH_ENGINES)}"
        raise ToolkitError(f"no engine {name!r} to compare with", where="--compare", fix=fix)
    device = "cpu" if beside.provider == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise ToolkitError("torch has no CUDA device", where="--compare", fix="drop --compare, or pass --provider cpu")
    torch.set_num_threads(beside.threads)
    model = run.classifier.to(device).eval()
    forward: Any = model.reference_logits
    if name == "torch-compile":
        forward = torch.compile(forward)

    @torch.inference_mode()
    def compute(inputs: Float32 | UInt8) -> Any:
        if beside.input == "image":
            images = [Image.fromarray(image) for image in inputs]
            pixel_values = run.processor(images=images, return_tensors="pt")["pixel_values"]
        else:
            pixel_values = torch.from_numpy(inputs)
        logits = forward(pixel_values.to(device))
        return model.probabilities(logits).cpu().numpy()  # the copy to the host waits for the device

    return Engine(name, "fp32", beside.provider, beside.threads, compute, beside.input)
