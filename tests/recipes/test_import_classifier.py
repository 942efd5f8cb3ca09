"""Classifiers that transformers trained become runs, whose graphs give what transformers' own classes give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import toolkit
from toolkit.errors import ToolkitError

LABELS = {0: "blue", 1: "green", 2: "red"}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"image_size": 32, "patch_size": 8}


def save(folder: Path, config: Any, architecture: str, processor: Any) -> Path:
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config)
    for parameter in model.parameters():  # as trained ones, so that no norm or bias is without effect
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.classifier.weight.data.mul_(20)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    vision = SIZES | {"intermediate_size": 64}
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=24, id2label=LABELS)
    crop = {"height": 32, "width": 32}
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop)
    return save(folder, config, "CLIPForImageClassification", processor)


def siglip(folder: Path) -> Path:
    vision = SIZES | {"intermediate_size": 64}
    config = transformers.SiglipConfig(vision_config=vision, id2label=LABELS)
    processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return save(folder, config, "SiglipForImageClassification", processor)


def dinov2(folder: Path) -> Path:
    config = transformers.Dinov2Config(**SIZES, id2label=LABELS)
    crop = {"height": 32, "width": 32}
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop)
    return save(folder, config, "Dinov2ForImageClassification", processor)


MAKERS: dict[str, Callable[[Path], Path]] = {"clip": clip, "siglip": siglip, "dinov2": dinov2}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classifiers")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.mark.parametrize("family", MAKERS)
def test_every_image_gets_the_label_of_transformers(
    checkpoints: dict[str, Path], color_data: Path, tmp_path: Path, family: str
) -> None:
    run = toolkit.import_classifier(checkpoints[family], out=tmp_path / "run")
    assert run.classifier.labels == list(LABELS.values())
    bundle = toolkit.export(run, out=tmp_path / "bundle", precision="fp32", data=color_data)
    assert bundle.parity["results"]["fp32"]["cpu"]["passed"]
    paths = sorted(color_data.rglob("*.png"))
    ours = toolkit.load(bundle.path).predict(paths)
    architecture = json.loads((checkpoints[family] / "config.json").read_bytes())["architectures"][0]
    whole = getattr(transformers, architecture).from_pretrained(checkpoints[family]).eval()
    processor = run.processor
    for path, prediction in zip(paths, ours, strict=True):
        pixel_values = processor(images=[Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = whole(pixel_values=pixel_values).logits[0].numpy()
        assert np.abs(logits - prediction.logits).max() <= 1e-3
        best, second = np.sort(logits)[[-1, -2]]
        assert prediction.label == LABELS[int(logits.argmax())] or best - second < 2e-3


def test_labelled_images_calibrate_it(checkpoints: dict[str, Path], color_data: Path, tmp_path: Path) -> None:
    run = toolkit.import_classifier(checkpoints["clip"], out=tmp_path / "run", data=color_data)
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
    checkpoints: dict[str, Path], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    folder = edited(checkpoints["clip"], tmp_path / "classifier", **changes)
    with pytest.raises(ToolkitError, match=what):
        toolkit.import_classifier(folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_encoder_alone_is_no_classifier(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(checkpoints["clip"], tmp_path / "classifier")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(ToolkitError, match=r"no classifier\.weight and no classifier\.bias"):
        toolkit.import_classifier(folder, out=tmp_path / "run")


def test_labels_that_the_data_lack_are_named(checkpoints: dict[str, Path], color_data: Path, tmp_path: Path) -> None:
    labels = {"0": "blue", "1": "green", "2": "violet"}
    folder = edited(checkpoints["clip"], tmp_path / "classifier", id2label=labels)
    with pytest.raises(ToolkitError, match="red"):
        toolkit.import_classifier(folder, out=tmp_path / "run", data=color_data)
