"""Classifiers that transformers trained become runs, whose graphs give what transformers' own classes give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from image_classifiers import MADE, fit_head, save_classifier
from PIL import Image
from safetensors.torch import load_file, save_file

import toolkit
from toolkit.data.digits import write_digits
from toolkit.errors import ToolkitError
from toolkit.sampling import evenly_spaced

LABELS = ["blue", "green", "red"]
REAL = 200
"""Images of digits that every label is compared on."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP classifier of the colours."""
    return save_classifier(tmp_path_factory.mktemp("classifiers") / "clip", "clip", LABELS)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "digits"
    write_digits(out)
    return out


@pytest.mark.parametrize("family", MADE)
def test_every_image_gets_the_label_of_transformers_pipeline(
    family: str, digits: Path, color_data: Path, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "classifier", family, [str(digit) for digit in range(10)])
    fit_head(folder, evenly(sorted(digits.glob("train/*/*.png")), 300))
    paths = evenly(sorted(digits.glob("test/*/*.png")), REAL)
    if family != "siglip2":  # images of other aspect ratios are squashed, which transformers doesn't do
        paths += sorted(color_data.rglob("*.png"))
    run = toolkit.import_classifier(folder, out=tmp_path / "run")
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32", data=digits, images=50)
    parity = bundle.parity["results"]["fp32"]["cpu"]
    assert parity["passed"]
    ours = toolkit.load(bundle.path).predict(paths)
    pipeline = transformers.pipeline("image-classification", model=str(folder))
    theirs = pipeline([Image.open(path) for path in paths], top_k=10, batch_size=32)
    assert [each.label for each in ours] == [scores[0]["label"] for scores in theirs]
    assert len({each.label for each in ours[:REAL]}) == 10
    for each, scores in zip(ours, theirs, strict=True):
        for score in scores:  # which change by no more than the logits
            assert abs(each.probabilities[score["label"]] - score["score"]) <= parity["tolerance"]


def evenly(paths: list[Path], count: int) -> list[Path]:
    return [paths[place] for place in evenly_spaced(len(paths), count)]


def test_a_traced_classifier_whose_head_stands_on_something_else_is_refused(tmp_path: Path) -> None:
    """PVT's stands on the class token, and a traced encoder gives the mean of all."""
    sizes = {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    config = transformers.PvtConfig(image_size=32, patch_sizes=[4, 2, 2, 2], num_labels=3, **sizes)
    config.id2label = dict(enumerate(LABELS))
    transformers.PvtForImageClassification(config).save_pretrained(tmp_path / "pvt")
    transformers.PvtImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "pvt")
    with pytest.raises(ToolkitError, match="PvtForImageClassification reads more than an embedding"):
        toolkit.import_classifier(tmp_path / "pvt", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labelled_images_calibrate_it(checkpoint: Path, color_data: Path, tmp_path: Path) -> None:
    run = toolkit.import_classifier(checkpoint, out=tmp_path / "run", data=color_data)
    assert run.summary["test"]["images"] == 21
    assert run.summary["temperature"] == pytest.approx(float(run.classifier.temperature), rel=1e-6)
    assert run.summary["settings"]["architecture"] == "CLIPForImageClassification"
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32,fp16,int8")
    assert all(by_provider["cpu"]["passed"] for by_provider in bundle.parity["results"].values())


def edited(source: Path, to: Path, **changes: Any) -> Path:
    to.mkdir()
    for file in source.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_bytes()) | changes
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return to


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architectures": ["CLIPModel"]}, "the checkpoint is a CLIPModel"),
        ({"architectures": None}, "names no architecture"),
        ({"id2label": {"0": "blue", "1": "blue", "2": "red"}}, "the same label twice: blue"),
        ({"id2label": {"0": "blue", "2": "red"}}, "does not count from 0"),
        ({"id2label": None}, "names no two labels"),
        ({"id2label": {"0": "blue", "1": "red"}}, "where 2 labels make it"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    folder = edited(checkpoint, tmp_path / "classifier", **changes)
    with pytest.raises(ToolkitError, match=what):
        toolkit.import_classifier(folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_encoder_alone_is_no_classifier(checkpoint: Path, tmp_path: Path) -> None:
    folder = edited(checkpoint, tmp_path / "classifier")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(ToolkitError, match=r"no classifier\.weight and no classifier\.bias"):
        toolkit.import_classifier(folder, out=tmp_path / "run")


def test_labels_that_the_data_lack_are_named(checkpoint: Path, color_data: Path, tmp_path: Path) -> None:
    labels = {"0": "blue", "1": "green", "2": "violet"}
    folder = edited(checkpoint, tmp_path / "classifier", id2label=labels)
    with pytest.raises(ToolkitError, match="red"):
        toolkit.import_classifier(folder, out=tmp_path / "run", data=color_data)
