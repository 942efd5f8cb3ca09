"""The same proofs on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from full_size import make_run
from PIL import Image

from benchmarks.gpu.cuda_placement import placed
from export.benchmark import ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.graph.config import config_of
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


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(make_run(tmp_path_factory.mktemp("full-size")))


@needs_cuda_provider
@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
def test_vit_b_32_at_224_pixels_is_proven_and_copies_nothing_back(
    graph_input: str, full_size: Run, tmp_path: Path
) -> None:
    """Its resize plans 224 outputs an axis, where a tiny encoder's 32 fit among ONNX Runtime's short constants."""
    options = ExportOptions(graph_input, ["fp32", "fp16", "bf16"])  # type: ignore[arg-type]
    parity = export_bundle(full_size, tmp_path / "bundle", options, provider="cuda")
    bundle = Bundle(tmp_path / "bundle")
    rng = np.random.default_rng(0)
    feed = {"image": rng.integers(0, 256, (2, 180, 240, 3), np.uint8)}
    if graph_input == "pixel_values":
        feed = {"pixel_values": np.stack([bundle.preprocess(Image.fromarray(image)) for image in feed["image"]])}
    expected = bundle.session(provider="cpu", precision="fp32").run(feed)["logits"]
    for precision, results in parity["results"].items():
        assert results["cuda"]["passed"]
        session = bundle.session(provider="cuda", precision=precision, record_nodes=True)
        operators = [node.operator for node in session.executed_nodes(feed)]
        assert "MemcpyToHost" not in operators
        assert "Conv" not in operators
        logits = bundle.session(provider="cuda", precision=precision).run(feed)["logits"]
        assert np.abs(logits - expected).max() <= 2 * results["cuda"]["tolerance"]
    model = onnx.load(bundle.path / bundle.graph_name("fp32"))
    assert config_of(model).patches_as_matmul
    session = bundle.session(provider="cuda", precision="fp32", record_nodes=True)
    operators = [node.operator for node in session.executed_nodes(feed)]
    foretold = placed(model)
    assert (operators.count("MemcpyToHost"), operators.count("MemcpyFromHost")) == (0, foretold.to_device)


@needs_cuda_provider
def test_vit_b_32_trains_in_half_on_cuda(full_size: Run, tmp_path: Path) -> None:
    for precision in ("bf16", "fp16"):
        training = {"mixed_precision": precision, "epochs": 3, "learning_rate": 1e-3, "batch_size": 16}
        recipe = full_size.recipe.model_copy(
            update={"training": full_size.recipe.training.model_copy(update=training)}  # type: ignore[union-attr]
        )
        summary = finetune(recipe, tmp_path / precision)
        assert summary["test"]["accuracy"] > summary["test"]["majority_class_accuracy"]
