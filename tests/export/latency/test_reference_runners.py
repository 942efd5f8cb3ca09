from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.latency.pool import POOL, golden_contents, pool_of
from export.latency.reference_runners import TORCH, _in_half, reference_runner
from export.latency.runner import onnxruntime_engine
from toolkit.errors import ToolkitError
from toolkit.runs.finished_run import run_of
from toolkit.runtime.bundle import Bundle


@pytest.mark.parametrize("name", ["torch-eager", "torch-bf16", "onnxruntime-plain"])
def test_every_rival_computes_the_same_classifier(finished_bundle: Path, name: str) -> None:
    bundle = Bundle(finished_bundle)
    ours = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    pool = pool_of(bundle, ours.input, *golden_contents(bundle))
    assert pool.images == POOL
    other = reference_runner(name, run_of(bundle, None), ours)
    assert other.precision == ("bf16" if name == "torch-bf16" else "fp32")
    for batch in (pool.batches(1)[0], pool.batches(2)[0]):
        tolerance = 0.05 if name == "torch-bf16" else 1e-5
        np.testing.assert_allclose(other.run(batch), ours.run(batch)["probabilities"], atol=tolerance)


def test_the_pipeline_gives_the_same_labels(finished_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle(finished_bundle)
    ours = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    batch = pool_of(bundle, ours.input, *golden_contents(bundle)).batches(1)[0]
    pipeline = reference_runner("hf-pipeline", run_of(bundle, None), ours)
    assert pipeline.run(batch)[0][0]["label"] == bundle.labels[int(ours.run(batch)["probabilities"].argmax())]
    assert capfd.readouterr().err == ""


def test_the_pipeline_takes_images_alone(pixel_bundle: Path) -> None:
    bundle = Bundle(pixel_bundle)
    ours = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    with pytest.raises(ToolkitError, match="the pipeline takes images"):
        reference_runner("hf-pipeline", run_of(bundle, None), ours)


def test_fp16_on_a_cpu_is_refused(finished_bundle: Path) -> None:
    bundle = Bundle(finished_bundle)
    ours = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    with pytest.raises(ToolkitError, match="torch-bf16"):
        reference_runner("torch-fp16", run_of(bundle, None), ours)


def test_a_rival_in_half_has_its_weights_in_half(finished_bundle: Path) -> None:
    """Not autocast alone, which casts them anew in every run; the run's own classifier stays as it is."""
    run = run_of(Bundle(finished_bundle), None)
    half = _in_half(run.classifier, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in run.classifier.parameters()} == {torch.float32}
    assert half.temperature.dtype == torch.float32
    assert torch.equal(half.temperature, run.classifier.temperature)


def test_the_names_of_rivals_tell_engine_and_precision() -> None:
    assert TORCH["torch-compile-fp16"] == ("torch-compile", "fp16")
    assert TORCH["torch-bf16"] == ("torch-eager", "bf16")
    assert {precision for _, precision in TORCH.values()} == {"fp32", "bf16", "fp16"}


@pytest.mark.slow
def test_a_compiled_rival_is_compiled_for_each_shape(finished_bundle: Path) -> None:
    """Ten batch sizes, past the eight shapes after which torch would go on uncompiled."""
    bundle = Bundle(finished_bundle)
    ours = onnxruntime_engine(bundle, provider="cpu", threads=1, precision="fp32")
    pool = pool_of(bundle, ours.input, *golden_contents(bundle))
    other = reference_runner("torch-compile", run_of(bundle, None), ours)
    torch._dynamo.utils.counters.clear()
    for size in range(1, 11):
        batch = pool.batches(size)[0]
        np.testing.assert_allclose(other.run(batch), ours.run(batch)["probabilities"], atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 10
