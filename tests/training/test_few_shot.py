"""Few-shot methods: each ships what it measured, starts from zero-shot where it says so, and sees no test label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import toolkit
from recipes.few_shot import FewShotOptions, encoded
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT
from toolkit.recipe.data import DataConfig
from toolkit.runs.few_shot_file import FewShotFile
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, accuracy
from toolkit.training.few_shot.methods import METHODS
from toolkit.training.few_shot.shots import draw
from toolkit.training.few_shot.text_cosine import TextCosine
from toolkit.training.ready_run import predict_splits

OPTIONS = FewShotOptions(templates=["a {} square"])


@pytest.fixture(scope="module")
def features(color_data: Path) -> Features:
    data = open_data(DataConfig(path=color_data))
    _, found = encoded(data, OPTIONS, SILENT)
    return found


def fit(features: Features, name: str, count: int = 4, seed: int = 0) -> Fitted:
    return METHODS[name].fit(features, draw(features.labels["train"], 3, count, seed))


LORA_SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name == "lora")) for name in METHODS]
"""LoRA fits for seconds, and what is asked of every method the others answer too."""


@pytest.mark.parametrize("name", METHODS)
def test_the_classifier_that_is_shipped_gives_what_was_measured(features: Features, name: str) -> None:
    before = {key: value.clone() for key, value in features.encoder.state_dict().items()}
    fitted = fit(features, name)
    classifier = Classifier(fitted.encoder, fitted.head, features.data.classes).eval()
    logits = predict_splits(classifier, preprocess_from(features.processor), features.data)
    for split in ("validation", "test"):
        largest = float(logits[split].abs().max())
        difference = float((logits[split] - fitted.logits[split]).abs().max())
        assert difference <= 256 * float(np.finfo(np.float32).eps) * max(1.0, largest)
    assert all(torch.equal(before[key], value) for key, value in features.encoder.state_dict().items())


@pytest.mark.parametrize("name", LORA_SLOW)
def test_a_seed_gives_the_same_again(features: Features, name: str) -> None:
    first, again = fit(features, name), fit(features, name)
    assert first.chosen == again.chosen
    assert torch.equal(first.logits["test"], again.logits["test"])


@pytest.mark.parametrize("name", LORA_SLOW)
def test_labels_of_the_test_split_change_nothing(features: Features, name: str) -> None:
    data = features.data
    turned = [replace(image, label=(image.label + 1) % 3) for image in data.splits["test"]]
    other = replace(features, data=replace(data, splits=data.splits | {"test": turned}))
    assert torch.equal(fit(features, name).logits["test"], fit(other, name).logits["test"])


def test_methods_learn(features: Features) -> None:
    """Three colours are easy: with 8 images each a linear probe is all but right, and none is worse than chance."""
    labels = features.labels["test"]
    assert accuracy(fit(features, "linear-probe", 8).logits["test"], labels) > 0.9
    for name in METHODS:
        fitted = fit(features, name, 8)
        assert accuracy(fitted.logits["test"], labels) > 1 / 3


def test_text_cosine_is_never_worse_than_zero_shot_on_validation(features: Features) -> None:
    assert features.text_head is not None
    zero = accuracy(features.text_head(features.embeddings["validation"]), features.labels["validation"])
    for seed in range(3):
        logits = TextCosine().fit(features, draw(features.labels["train"], 3, 1, seed)).logits["validation"]
        assert accuracy(logits, features.labels["validation"]) >= zero


def test_more_shots_of_a_seed_hold_its_fewer_ones() -> None:
    labels = torch.arange(3).repeat_interleave(20)
    few, many = (draw(labels, 3, count, 7).places.reshape(3, count) for count in (2, 8))
    assert torch.equal(few, many[:, :2])
    assert torch.equal(labels[many], torch.arange(3)[:, None].expand(3, 8))
    assert not torch.equal(many, draw(labels, 3, 8, 8).places.reshape(3, 8))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("tip-adapter-f", "fp32,fp16,int8"),
        *(pytest.param(name, "fp32", marks=pytest.mark.slow) for name in ("lora", "prolip")),
    ],
)
def test_the_best_one_is_a_run_that_is_exported_and_proven(
    color_data: Path, tmp_path: Path, name: str, precision: str
) -> None:
    out = tmp_path / "study"
    found = toolkit.few_shot(color_data, out=out, shots=[1, 2], seeds=2, methods=[name], templates=["a {} square"])
    written = FewShotFile.model_validate(json.loads((out / "few_shot.json").read_bytes()))
    assert written == found
    assert [(result.method, result.shots) for result in found.results] == [(name, 1), (name, 2)]
    assert all(result.interval is not None and len(result.seeds) == 2 for result in found.results)
    assert (out / "few_shot.png").stat().st_size > 10_000
    bundle = toolkit.export(out / "best", out=tmp_path / "bundle", precision=precision)
    assert all(by_provider["cpu"]["passed"] for by_provider in bundle.parity["results"].values())
    best = next(
        each
        for result in found.results
        if result.shots == found.best["shots"]
        for each in result.seeds
        if each.seed == found.best["seed"]
    )
    summary = json.loads((out / "best" / "summary.json").read_bytes())
    assert summary["test"]["accuracy"] == pytest.approx(best.accuracy)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shots": [13]}, "13 shots were asked for, and class 'blue' has 12 training images"),
        ({"methods": ["prompt-tuning"]}, "no few-shot method 'prompt-tuning'"),
        ({"methods": ["lora", "lora"]}, "stands there twice"),
    ],
)
def test_what_can_not_be_is_refused(color_data: Path, tmp_path: Path, options: dict[str, list[int]], what: str) -> None:
    with pytest.raises(ToolkitError, match=what):
        toolkit.few_shot(color_data, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
