"""The same proofs on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.benchmark import ComparisonOptions, benchmark
from export.latency.measure import MinSamples
from export.prove_bundle import prove_again
from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.session import loadable_providers
from toolkit.runtime.verify import verify

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
needs_cuda_provider = pytest.mark.skipif(
    torch.cuda.is_available() and loadable_providers()["cuda"] is not None,
    reason="ONNX Runtime's CUDA provider does not load",
)


@needs_cuda_provider
def test_parity_verification_and_latency_on_cuda(finished_run: Path, finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))
    parity = prove_again(Bundle(bundle), Run(finished_run), provider="cuda", threads=None)
    assert set(parity["results"]["fp32"]) == {"cpu", "cuda"}
    assert verify(bundle, provider="cuda")["passed"]
    latency = benchmark(
        Bundle(bundle),
        provider="cuda",
        batch_sizes=[1, 8],
        compare=ComparisonOptions(["torch-eager"]),
        least=MinSamples(20, 0),
    )
    assert {row["provider"] for row in latency["rows"]} == {"cuda"}


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_fine_tuning_on_cuda_learns(precision: str, make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    summary = finetune(make_recipe(training={"mixed_precision": precision, "epochs": 4}), tmp_path / "run")
    assert summary["test"]["accuracy"] > summary["test"]["majority_class_accuracy"]
