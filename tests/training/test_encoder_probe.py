"""The probe that encoders are compared by: its penalty is chosen inside training, validation is measured alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.latency.encoder_latency import write_graph
from toolkit.data.source import DataSource, open_data
from toolkit.models.build import open_as_it_is
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.data import DataConfig
from toolkit.runtime.session import Session
from toolkit.training.encoder_probe import WITHOUT_CHOICE, fit_probe, inner_split
from toolkit.training.few_shot.features import Features, features_of
from toolkit.training.few_shot.linear_probe import STRENGTHS
from toolkit.training.few_shot.method import accuracy


@pytest.fixture(scope="module")
def data(color_data: Path) -> DataSource:
    source = open_data(DataConfig(path=color_data))
    return replace(source, splits={split: source.splits[split] for split in ("train", "validation")})


def features(name: str, data: DataSource) -> Features:
    encoder, processor = open_as_it_is(name)
    return features_of(encoder, processor, data, None, len(encoder.groups) - (encoder.embedding == "projected"))


def test_it_learns_and_needs_no_test_split(data: DataSource) -> None:
    found = features("tiny-clip", data)
    probe = fit_probe(found)
    assert accuracy(probe.logits, found.labels["validation"]) > 0.9
    assert probe.strength in STRENGTHS


def test_labels_of_validation_change_nothing(data: DataSource) -> None:
    found = features("tiny-clip", data)
    turned = [replace(image, label=(image.label + 1) % 3) for image in data.splits["validation"]]
    other = replace(found, data=replace(data, splits=data.splits | {"validation": turned}))
    ours, theirs = fit_probe(found), fit_probe(other)
    assert ours.strength == theirs.strength
    assert torch.equal(ours.logits, theirs.logits)


@pytest.mark.parametrize("name", ["clip", "dinov2", "swin"])
def test_the_graph_that_is_timed_gives_what_was_measured(
    name: str, data: DataSource, encoders: dict[str, Path], tiny_swin: Path, tmp_path: Path
) -> None:
    found = features(str({**encoders, "swin": tiny_swin}[name]), data)
    probe, preprocess = fit_probe(found), preprocess_from(found.processor)
    classifier = Classifier(found.encoder.cpu(), probe.head, data.classes).eval()
    size = write_graph(classifier, preprocess, tmp_path / "model.onnx")
    assert size == (tmp_path / "model.onnx").stat().st_size
    session = Session(tmp_path / "model.onnx")
    for image, expected in zip(data.splits["validation"], probe.logits, strict=True):
        logits = session.run({"image": np.asarray(image.decode())[None]})["logits"][0]
        tolerance = 256 * float(np.finfo(np.float32).eps) * max(1.0, float(probe.logits.abs().max()))
        assert float(np.abs(logits - expected.numpy()).max()) <= tolerance


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("grouped", [False, True])
def test_no_class_is_used_up_and_no_group_divided(seed: int, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, int(rng.integers(8, 300))).tolist()
    groups = [str(number) for number in rng.integers(0, max(2, len(labels) // 4), len(labels))] if grouped else None
    held = inner_split(labels, groups)
    assert np.array_equal(held, inner_split(labels, groups))
    for label in set(labels):
        mine = np.array(labels) == label
        assert held[mine].sum() <= max(1, round(0.2 * mine.sum()))
        assert not held[mine].all()
    if groups is not None:
        for group in set(groups):
            assert len(set(held[np.array(groups) == group].tolist())) == 1
    elif len(labels) > 100:
        assert 0.15 < held.mean() < 0.25


def test_classes_of_one_image_have_the_penalty_that_is_given(data: DataSource) -> None:
    assert not inner_split([0, 1, 2], None).any()
    found = features("tiny-clip", data)
    first = {image.label: image for image in data.splits["train"]}
    few = replace(data, splits=data.splits | {"train": [first[label] for label in sorted(first)]})
    assert fit_probe(features_of(found.encoder, found.processor, few, None, found.start)).strength == WITHOUT_CHOICE
