"""An encoder without a projection, from training to a proof in every precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import planted
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.tensor_names import POOLED
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.models.build import load_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.session import Session

PRECISIONS = ("fp32", "fp16", "int8")


one_family = pytest.mark.parametrize("run", ["clip", pytest.param("siglip", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def run(
    request: pytest.FixtureRequest, make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("pooled") / request.param
    finetune(make_recipe(request.param, model={"embedding": "pooled"}), out)
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / run.name
    export_bundle(Run(run), out, ExportOptions(precisions=PRECISIONS))
    return out


def test_the_run_keeps_what_its_head_takes(run: Path) -> None:
    classifier, _ = load_classifier(run / "best")
    names = [group.name for group in classifier.groups]
    assert names == ["embeddings", "layers.0", "layers.1", "layers.2", "post_norm", "head"]
    assert classifier.head[0].in_features == classifier.encoder.embedding_size == 32
    names = list(load_file(run / "best" / "model.safetensors"))
    assert not any("projection" in name or "encoder.model.head" in name for name in names)


def test_every_precision_is_proven(bundle: Path) -> None:
    results = Bundle(bundle).parity_results
    assert list(results) == list(PRECISIONS)
    for precision in PRECISIONS:
        entry = results[precision]["cpu"]
        assert entry["passed"]
        assert entry["top1_agreement"] == 1.0
    fp32 = results["fp32"]["cpu"]
    assert fp32["stages"]["embedding_cosine"] > 1 - 1e-6
    assert fp32["max_abs_logit"] <= fp32["tolerance"]


@one_family
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bisecting_compares_the_pooled_tokens_too(precision: str, run: Path, bundle: Path) -> None:
    report = bisect_bundle(Bundle(bundle), Run(run), provider="cpu", threads=1, precision=precision)
    assert report["first_fault"] is None
    assert report["tensors"] > 20


@one_family
def test_a_fault_in_the_pooling_is_found_there(run: Path, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))

    def doubled(model: onnx.ModelProto) -> None:
        (node,) = [node for node in model.graph.node if POOLED in node.output]
        node.output[0] = "before"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
        model.graph.node.insert(
            list(model.graph.node).index(node) + 1,
            helper.make_node("Mul", ["before", "two"], [POOLED], name="planted"),
        )

    planted.plant(copy, doubled)
    fault = bisect_bundle(Bundle(copy), Run(run), provider="cpu", threads=1)["first_fault"]
    assert (fault["node"], fault["module"]) == ("planted", "encoder")


@pytest.mark.parametrize("config", [GraphConfig(), GraphConfig(standard_ops_only=True)], ids=["fused", "standard"])
def test_the_graph_computes_what_pytorch_computes_for_any_batch(config: GraphConfig, run: Path) -> None:
    classifier, processor = load_classifier(run / "best")
    model = build_graph(classifier, preprocess_from(processor), {}, "pixel_values", config)
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    session = Session(model.SerializeToString(), provider="cpu", threads=1)
    for batch in (1, 5):
        pixel_values = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        (logits,) = session.compute(["logits"], {"pixel_values": pixel_values.numpy()})
        with torch.inference_mode():
            expected = classifier.reference_logits(pixel_values)
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_training_on_the_deployed_trunk_and_from_its_cache(
    family: str, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """With the head alone the trunk ends at the pooled tokens, and the cache holds them."""
    recipe = make_recipe(
        family,
        model={"embedding": "pooled", "unfreeze_last": 0},
        training={"epochs": 1, "trunk_precision": "int8", "boundary_cache": {"enabled": True}},
    )
    finetune(recipe, tmp_path / "run")
    export_bundle(Run(tmp_path / "run"), tmp_path / "bundle")
    assert Bundle(tmp_path / "bundle").parity_results["int8"]["cpu"]["passed"]
