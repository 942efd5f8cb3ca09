"""Texts alone from a manifest to a bundle: the same engine, graph and proof, without an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_words import COLOURS, write_texts

import toolkit
from export.latency.tuning.tune_bundle import tune_bundle
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import ImageText
from toolkit.runtime.serving import Budget
from toolkit.runtime.verify import verify


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


def recipe_of(texts: Path, encoder: Path, model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    own = {"encoder": str(encoder), "inputs": ["text"], "unfreeze_last": 1, "head": {"type": "mlp", "hidden_size": 16}}
    return Recipe.model_validate(
        {
            "data": {"path": texts, "columns": {"path": None, "text": "caption"}},
            "model": own | (model or {}),
            "training": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3} | training,
            "tracking": {"trackers": [], "plots": True},
        }
    )


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("metaclip_2", "siglip2")]
"""As the other two but for the tokenizer, which has tests of its own."""


@pytest.fixture(scope="module", params=["clip", "siglip", *SLOW])
def run(
    request: pytest.FixtureRequest,
    texts: Path,
    text_encoders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("text-run") / "run"
    finetune(recipe_of(texts, text_encoders[request.param], boundary_cache={"enabled": False}), out)
    return out


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    out = run.parent / "bundle"
    toolkit.export(run, out=out, precision=("fp32", "fp16", "int8"))
    return out


def test_the_groups_are_the_text_tower_s(run: Path) -> None:
    config = json.loads((run / "best" / "config.json").read_text())
    assert config["encoder"] is None
    assert config["trainable_groups"][-1] == "head"
    assert "layers.1" in config["trainable_groups"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["images"] == 24
    assert (run / "plots" / "worst_errors.png").is_file()


def test_the_cache_changes_nothing(run: Path, texts: Path, tmp_path: Path) -> None:
    recipe = Run(run).recipe
    finetune(recipe_of(texts, Path(recipe.model.encoder), boundary_cache={"enabled": True}), tmp_path / "cached")
    plain, cached = (
        [json.loads(line)["loss"] for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (run, tmp_path / "cached")
    )
    assert cached == pytest.approx(plain, abs=1e-4)


def test_every_precision_is_proven_from_the_text_on(bundle: Path) -> None:
    opened = Bundle(bundle)
    assert not opened.takes_images
    assert opened.session(threads=1).input == "input_ids"
    assert set(opened.parity_results) == {"fp32", "fp16", "int8"}
    for precision, by_provider in opened.parity_results.items():
        entry = by_provider["cpu"]
        assert entry["passed"], precision
        assert not {"decode", "preprocess"} & set(entry["stages"])
        assert entry["fused"]["attention"] == 2
    report = verify(bundle)
    assert report["passed"], report["problems"]
    golden = opened.golden()
    assert golden.texts is not None
    assert [opened.read(f"golden/{name}").decode() for name in golden.names] == golden.texts


def test_predictions_don_t_depend_on_the_batch(bundle: Path) -> None:
    golden = Bundle(bundle).golden()
    sources = [ImageText(None, text) for text in golden.texts or []]
    with toolkit.load(bundle) as classifier:
        together = classifier.predict(sources, batch_size=8)
        for one, source, expected in zip(together, sources, golden.logits, strict=True):
            alone = classifier.predict(source)
            np.testing.assert_allclose(one.logits, alone.logits, atol=1e-5)
            np.testing.assert_allclose(alone.logits, expected, atol=1e-3)
            assert alone.label in COLOURS


def test_an_image_is_refused_by_name(bundle: Path) -> None:
    with toolkit.load(bundle) as classifier:
        for source in (b"an image", ImageText(b"an image", "a red picture")):
            with pytest.raises(ToolkitError, match="texts alone, and no image"):
                classifier.predict(source)
        with pytest.raises(ToolkitError, match="no text"):
            classifier.predict(ImageText(None, None))


def test_reduced_jpegs_are_refused(bundle: Path) -> None:
    with pytest.raises(ToolkitError, match="texts alone, and no image") as refused:
        tune_bundle(Bundle(bundle), Budget(p99_ms=5000, max_accuracy_drop=100), provider="cpu", reduced_jpeg=True)
    assert refused.value.where == "--reduced-jpeg"


def test_evaluation_reads_the_texts_of_a_manifest(bundle: Path, texts: Path, tmp_path: Path) -> None:
    found = toolkit.evaluate(bundle, data=texts, split="test", out=tmp_path / "evaluation")
    assert found.images == 24
    assert (tmp_path / "evaluation" / "evaluation.html").is_file()


@pytest.mark.parametrize("run", ["clip", pytest.param("siglip", marks=pytest.mark.slow), *SLOW], indirect=True)
def test_bisect_and_latency_work_as_for_images(bundle: Path, run: Path, tmp_path: Path) -> None:
    report = bisect_bundle(Bundle(bundle), Run(run), provider="cpu", threads=1)
    assert report["first_fault"] is None
    assert report["tensors"] > 20
    found = toolkit.bench_latency(
        bundle, batch_sizes=[1, 2], compare=["torch-eager"], runs=3, seconds=0.01, out=tmp_path / "latency.json"
    )
    assert {row["engine"] for row in found["rows"]} == {"onnxruntime", "torch-eager"}
    assert found["inputs"]["what"].startswith("the network alone: tokens")
    assert found["request"][0]["file_to_label_ms"] > 0


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"fusion": {"type": "product"}}, "fusion is for inputs"),
        ({"image_size": 64}, "image_size and embedding"),
        ({"embedding": "pooled"}, "image_size and embedding"),
        ({"head": {"type": "cosine", "init": "text"}}, "head.init: text"),
    ],
)
def test_what_texts_alone_have_no_use_for_is_refused(
    model: dict[str, Any], match: str, texts: Path, text_encoders: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=match):
        recipe_of(texts, text_encoders["clip"], model)
