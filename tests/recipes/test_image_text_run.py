"""Images with texts from a manifest to a bundle: training is exact, the graph is proven, what is missing is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_words import write_pairs

import toolkit
from recipes.finetune import finetune
from tests.models.test_multimodal import FUSIONS
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import ImageText
from toolkit.runtime.verify import verify

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def make(pairs: Path, text_encoders: dict[str, Path]) -> MakeRecipe:
    def recipe(family: str = "clip", fusion: dict[str, Any] | None = None, **training: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "data": {"path": pairs, "columns": {"text": "caption"}},
                "model": {
                    "encoder": str(text_encoders[family]),
                    "inputs": ["image", "text"],
                    "fusion": fusion or {"type": "gated"},
                    "unfreeze_last": 1,
                    "head": {"type": "mlp", "hidden_size": 16},
                },
                "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3} | training,
                "tracking": {"trackers": [], "plots": False},
            }
        )

    return recipe


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("fusion", ["gated", "cross-attention"])
def test_the_cache_cuts_both_towers_and_changes_nothing(
    family: str, fusion: str, make: MakeRecipe, tmp_path: Path
) -> None:
    given = {"type": fusion, "modality_dropout": 0.2}
    for name, cached in (("plain", False), ("cached", True)):
        finetune(make(family, given, boundary_cache={"enabled": cached}), tmp_path / name)
    assert losses_of(tmp_path / "plain") == pytest.approx(losses_of(tmp_path / "cached"), abs=1e-4)
    assert json.loads((tmp_path / "cached/summary.json").read_text())["boundary_cache"] is True


@pytest.fixture(scope="module", params=FUSIONS)
def bundle(request: pytest.FixtureRequest, make: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each fusion, in every precision that a CPU has, the cross-attention's with what may be missing."""
    folder = tmp_path_factory.mktemp("image-text")
    fusion = {"type": request.param, "modality_dropout": 0.3 if request.param == "cross-attention" else 0.0}
    finetune(make("clip", fusion), folder / "run")
    precisions = ("fp32", "fp16", "int8")
    toolkit.export(folder / "run", out=folder / "bundle", precision=precisions)
    return folder / "bundle"


def test_every_precision_is_proven_from_the_file_and_the_text_on(bundle: Path) -> None:
    for precision, by_provider in Bundle(bundle).parity_results.items():
        entry = by_provider["cpu"]
        assert entry["passed"], precision
        assert entry["stages"]["preprocess"]["max_pixel_value"] == 0
    report = verify(bundle)
    assert report["passed"], report["problems"]
    assert report["preprocessing_identical"]


def test_predictions_don_t_depend_on_the_batch(bundle: Path, pairs: Path) -> None:
    golden = Bundle(bundle).golden()
    assert golden.texts is not None
    sources = [
        ImageText((bundle / "golden" / name).read_bytes(), text)
        for name, text in zip(golden.names, golden.texts, strict=True)
    ]
    with toolkit.load(bundle) as classifier:
        together = classifier.predict(sources, batch_size=8)
        alone = [classifier.predict(source) for source in sources]
        colour = "red" if "red" not in golden.texts[0] else "blue"
        swapped = classifier.predict(ImageText(sources[0].image, f"a {colour} picture"))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    assert not np.array_equal(swapped.logits, alone[0].logits)


def test_what_is_missing_is_refused_unless_it_was_trained_for(bundle: Path) -> None:
    golden = Bundle(bundle).golden()
    image = (bundle / "golden" / golden.names[0]).read_bytes()
    with toolkit.load(bundle) as classifier:
        for source in (ImageText(image, None), ImageText(None, "a red picture"), image):
            if Bundle(bundle).takes_missing:
                assert classifier.predict(source).label in ("same", "other")
                continue
            with pytest.raises(ToolkitError, match=r"no (image|text)") as caught:
                classifier.predict(source)
            assert "modality_dropout" in caught.value.fix
        with pytest.raises(ToolkitError, match="no image and no text"):
            classifier.predict(ImageText(None, None))


def test_a_text_for_a_bundle_of_images_is_refused(finished_bundle: Path) -> None:
    image = next((finished_bundle / "golden").glob("*.png")).read_bytes()
    with toolkit.load(finished_bundle) as classifier, pytest.raises(ToolkitError, match="images alone"):
        classifier.predict(ImageText(image, "a red picture"))


@pytest.mark.parametrize(
    ("model", "training", "where"),
    [
        ({}, {"mixup": 0.2}, "training.mixup"),
        ({}, {"trunk_precision": "fp16"}, "training.trunk_precision"),
        ({"long_texts": "refuse"}, {}, None),
    ],
)
def test_what_texts_can_t_have_is_refused_by_name(
    model: dict[str, Any], training: dict[str, Any], where: str | None, make: MakeRecipe, pairs: Path, tmp_path: Path
) -> None:
    recipe = make(**training)
    if "long_texts" in model:
        long = pairs.read_text().replace("a red picture", "red " * 40)
        (pairs.parent / "long.csv").write_text(long)
        recipe = recipe.model_copy(
            update={
                "model": recipe.model.model_copy(update=model),
                "data": recipe.data.model_copy(update={"path": pairs.parent / "long.csv"}),
            }
        )
    with pytest.raises(ToolkitError) as caught:
        finetune(recipe, tmp_path / "run")
    if where is None:
        assert "tokens, where the text tower takes 16" in caught.value.what
        assert "model.long_texts=truncate" in caught.value.fix
    else:
        assert caught.value.where == where


def test_data_without_texts_is_refused(make: MakeRecipe, pairs: Path, tmp_path: Path) -> None:
    recipe = make()
    without = recipe.model_copy(update={"data": type(recipe.data)(path=pairs)})
    with pytest.raises(ToolkitError, match="no texts") as caught:
        finetune(without, tmp_path / "run")
    assert "data.columns.text" in caught.value.fix
