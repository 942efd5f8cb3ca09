"""What a user would otherwise run, as engines beside the bundle's graph: torch, the plain export, the pipeline."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from accelerate.utils import send_to_device
from PIL import Image

from export.graph.given import given
from export.graph.traced import quiet_exporter
from export.latency.runner import BOUND, Runner
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import text_tower_of
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import Feed
from toolkit.runtime.providers import ON_CPU, PROVIDER_OPTIONS, PROVIDERS

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
EAGER, COMPILED = "torch-eager", "torch-compile"
TORCH = {EAGER: (EAGER, "fp32"), COMPILED: (COMPILED, "fp32")} | {
    f"{prefix}-{precision}": (engine, precision)
    for prefix, engine in (("torch", EAGER), (COMPILED, COMPILED))
    for precision in HALF
}
"""By the name of a rival, the engine and the precision that it has in ``latency.json``."""
RIVALS = (*TORCH, "onnxruntime-plain", "hf-pipeline")
MOST_SHAPES = 64
"""Batches of other shapes that a network is compiled for; torch would go on uncompiled after eight, and say nothing."""


def reference_runner(name: str, run: Run, beside: Runner) -> Runner:
    """Another engine with the device, the threads and the inputs of the one that it stands beside.

    - ``torch-eager``, ``torch-compile``: transformers' forward pass in fp32.
    - ``torch-bf16``, ``torch-fp16``, ``torch-compile-bf16``, ``torch-compile-fp16``: the same with all weights and
      activations in that type, which is faster than autocast.
    - ``onnxruntime-plain``: what ``torch.onnx.export`` gives, in ONNX Runtime's default session.
    - ``hf-pipeline``: transformers' image classification pipeline, from decoded images on.

    Where the other one takes decoded images, so do they, through the training-time image processor.

    Raises:
        ToolkitError: no such engine or device, or one that can't take these inputs.
    """
    if name not in RIVALS:
        fix = f"choose from {', '.join((*RIVALS, *BOUND))}"
        raise ToolkitError(f"no engine {name!r} to compare with", where="--compare", fix=fix)
    device = "cpu" if beside.provider in ON_CPU else "cuda"
    beside = replace(beside, provider="cpu") if device == "cpu" else beside
    if device == "cuda" and not torch.cuda.is_available():
        raise ToolkitError("torch has no CUDA device", where="--compare", fix="drop --compare, or pass --provider cpu")
    if name.endswith("fp16") and device == "cpu":
        raise ToolkitError("torch computes fp16 slowly on CPUs", where="--compare", fix="compare with torch-bf16")
    torch.set_num_threads(beside.threads)
    if name in ("hf-pipeline", "onnxruntime-plain") and text_tower_of(run.classifier.encoder) is not None:
        what = f"{name} takes images alone, and the run takes texts"
        raise ToolkitError(what, where="--compare", fix="compare with torch-eager or torch-compile")
    if name == "hf-pipeline":
        return _pipeline(run, beside, device)
    if name == "onnxruntime-plain":
        return _plain(run, beside)
    engine, precision = TORCH[name]
    dtype = HALF.get(precision)
    model = run.classifier.to(device).eval() if dtype is None else _in_half(run.classifier, dtype).to(device)
    forward: Callable[[Any], Any] = model.reference_logits
    if engine == COMPILED:
        forward = compiled(forward, device)
    events = _Events() if device == "cuda" else None

    @torch.inference_mode()
    def compute(feed: Feed) -> Any:
        inputs = send_to_device(given(model, _with_pixel_values(run, feed)), device)
        with events or contextlib.nullcontext():
            logits = forward(inputs if dtype is None else _as(dtype, inputs))
        return model.probabilities(logits.float()).cpu().numpy()  # the copy to the host waits for the device

    seconds = events.seconds if events else None
    return Runner(engine, precision, beside.provider, beside.threads, compute, beside.input, device_seconds=seconds)


def _in_half(classifier: Classifier, dtype: torch.dtype) -> Classifier:
    """A copy with weights of another type; its temperature stays as it is, since probabilities do."""
    copied = copy.deepcopy(classifier).to(dtype).eval()
    copied.temperature = classifier.temperature.clone()
    return copied


def _as(dtype: torch.dtype, inputs: Any) -> Any:
    """Floating-point inputs in a type; others as they are."""
    if isinstance(inputs, dict):
        return {name: _as(dtype, values) for name, values in inputs.items()}
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def compiled(forward: Callable[[Any], Any], device: str) -> Callable[[Any], Any]:
    """A forward pass as torch compiles it best: each shape for itself, on a GPU replayed as a CUDA graph."""
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    return torch.compile(forward, dynamic=False, mode="reduce-overhead" if device == "cuda" else "default")


class _Events:
    """A stopwatch on the device: the time between two events of its own."""

    def __enter__(self) -> None:
        self._ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._ends[0].record()

    def __exit__(self, *_: object) -> None:
        self._ends[1].record()

    def seconds(self) -> float:
        """Seconds of the last run."""
        self._ends[1].synchronize()
        return float(self._ends[0].elapsed_time(self._ends[1])) / 1000


def _with_pixel_values(run: Run, feed: Feed) -> Feed:
    """A feed as the classifier in PyTorch takes it: with ``pixel_values`` in place of images, where there are any."""
    return feed if "input_ids" in feed and "image" not in feed else {**feed, "pixel_values": _pixel_values(run, feed)}


def _pixel_values(run: Run, feed: Feed) -> Any:
    """``pixel_values`` [batch, 3, height, width] by the training-time image processor, where they aren't given."""
    if "pixel_values" in feed:
        return feed["pixel_values"]
    images = [Image.fromarray(image) for image in feed["image"]]
    return run.processor(images=images, return_tensors="np")["pixel_values"]


class _Probabilities(torch.nn.Module):
    """Forward pass whose results are the graph's."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Probabilities [batch, classes]."""
        return self.classifier.probabilities(self.classifier.reference_logits(pixel_values))


def _plain(run: Run, beside: Runner) -> Runner:
    """The graph that ``torch.onnx.export`` writes, opened as its documentation shows."""
    size = run.processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    example = size.repeat(2, 1, 1, 1)
    with TemporaryDirectory() as folder, quiet_exporter():
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(
            _Probabilities(copy.deepcopy(run.classifier).cpu().eval()),
            (example,),
            path,
            input_names=["pixel_values"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = beside.threads
        options.log_severity_level = 4
        providers = [(PROVIDERS[beside.provider], PROVIDER_OPTIONS.get(beside.provider, {}))]
        session = ort.InferenceSession(str(path), options, providers=providers)

    def compute(feed: Feed) -> Any:
        return session.run(None, {"pixel_values": _pixel_values(run, feed)})[0]

    return Runner("onnxruntime-plain", "fp32", beside.provider, beside.threads, compute, beside.input)


def _pipeline(run: Run, beside: Runner, device: str) -> Runner:
    """The pipeline of transformers around the same classifier."""
    if beside.input != "image":
        fix = "export the bundle with --input image, or drop hf-pipeline"
        raise ToolkitError("the pipeline takes images, the graph pixel_values", where="--compare", fix=fix)
    from transformers import ImageClassificationPipeline, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import ImageClassifierOutput

    class Wrapped(PreTrainedModel):
        """The run's classifier with the interface that the pipeline asks for."""

        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.classifier = run.classifier

        def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
            return ImageClassifierOutput(logits=self.classifier.reference_logits(pixel_values))

    labels = dict(enumerate(run.classifier.labels))
    with quiet_exporter():
        model = Wrapped(PretrainedConfig(id2label=labels, label2id={name: at for at, name in labels.items()}))
        pipeline = ImageClassificationPipeline(model=model.eval(), image_processor=run.processor, device=device)

    def compute(feed: Feed) -> Any:
        images = [Image.fromarray(np.asarray(image)) for image in feed["image"]]
        return pipeline(images, batch_size=len(images), top_k=None)

    return Runner("hf-pipeline", "fp32", beside.provider, beside.threads, compute, beside.input)
