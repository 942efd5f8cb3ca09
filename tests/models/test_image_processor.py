"""An encoder's image processor is what its file says, or refused: transformers' defaults fill no gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.families.siglip2 import cut
from toolkit.models.load import EMBEDDED
from toolkit.recipe.model import ModelConfig

FILE = "preprocessor_config.json"
OPENAI = {  # as openai/clip-vit-base-patch32 has it: sizes as numbers, the class under its old name
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, encoders: dict[str, Path], tmp_path: Path) -> Path:
    return kinds.copy_of(encoders[request.param], tmp_path / request.param)


def processor_of(folder: Path | str) -> Any:
    return build_classifier(ModelConfig(encoder=str(folder), unfreeze_last=0), ["a", "b"], seed=0)[1]


def refused(folder: Path) -> ToolkitError:
    with pytest.raises(ToolkitError) as caught:
        processor_of(folder)
    assert str(folder) in caught.value.where
    return caught.value


def test_a_folder_without_a_processor_is_refused_with_the_way_to_write_one(folder: Path) -> None:
    (folder / FILE).unlink()
    error = refused(folder)
    assert f"no {FILE} there" in error.what
    name = "CLIPImageProcessorPil" if folder.name == "clip" else "SiglipImageProcessorPil"
    assert f"transformers.{name}(size=..., resample=..., " in error.fix
    assert ("crop_size" in error.fix) == (folder.name == "clip")


def test_a_legacy_processor_config_without_image_processor_is_none(folder: Path) -> None:
    (folder / FILE).rename(folder / "processor_config.json")
    kinds.set_json(folder / "processor_config.json", processor_class="CLIPProcessor")
    assert f"no {FILE} there" in refused(folder).what


def test_a_nested_processor_is_read(folder: Path) -> None:
    settings = json.loads((folder / FILE).read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert list(processor_of(folder).image_mean) == [0.1, 0.2, 0.3]  # it goes before the other, as in transformers
    (folder / FILE).unlink()
    assert list(processor_of(folder).image_mean) == [0.1, 0.2, 0.3]


def test_the_files_that_openai_wrote_are_read(encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "clip")
    (folder / FILE).write_text(json.dumps(OPENAI))
    processor = processor_of(folder)
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (32, 32)
    assert processor_of(EMBEDDED).crop_size["height"] == 64


@pytest.mark.parametrize(
    "kind", ["ViTImageProcessor", "ViTFeatureExtractor", "ConvNextImageProcessor", "Siglip2ImageProcessor", None]
)
def test_another_class_s_file_is_refused(kind: str | None, folder: Path) -> None:
    kinds.set_json(folder / FILE, image_processor_type=kind)
    error = refused(folder)
    assert (f"is a {kind}" if kind else "names no image_processor_type") in error.what
    assert "encoders take a " in error.what
    assert ".save_pretrained(FOLDER)" in error.fix


def test_a_real_vit_processor_is_refused(folder: Path) -> None:
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    assert "is a ViTImageProcessor" in refused(folder).what


def test_siglip2_s_processor_gives_the_same_patches_of_squares(encoders: dict[str, Path]) -> None:
    """Its sizes keep the aspect ratio, so that for a square image both are the same."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8))
    theirs = transformers.Siglip2ImageProcessorPil.from_pretrained(encoders["siglip2"])(image, return_tensors="pt")
    ours = processor_of(encoders["siglip2"])(image, return_tensors="pt")["pixel_values"]
    assert theirs["spatial_shapes"].tolist() == [[4, 4]]
    torch.testing.assert_close(cut(ours, 8), theirs["pixel_values"], atol=0, rtol=0)


def test_dinov3_s_settings_are_read_by_vit_s_processor(encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = kinds.copy_of(encoders["dinov3_vit"], tmp_path / "dinov3_vit")
    kinds.set_json(folder / FILE, image_processor_type="DINOv3ViTImageProcessorFast", image_mean=[0.1, 0.2, 0.3])
    processor = processor_of(folder)
    assert isinstance(processor, transformers.ViTImageProcessorPil)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    kinds.set_json(folder / FILE, size={"height": 32, "width": 48})
    assert "takes squares" in refused(folder).what


@pytest.mark.parametrize("missing", ["size", "resample", "image_mean", "image_std"])
def test_a_setting_that_is_left_out_is_not_filled_in(missing: str, folder: Path) -> None:
    kinds.set_json(folder / FILE, **{missing: None})
    assert f"leaves out {missing}" in refused(folder).what


def test_what_is_switched_off_needs_no_settings(folder: Path) -> None:
    kinds.set_json(folder / FILE, do_normalize=False, image_mean=None, image_std=None)
    assert not processor_of(folder).do_normalize


def test_another_output_size_than_the_encoder_has_positions_for(folder: Path) -> None:
    side = {"height": 48, "width": 48}
    kinds.set_json(folder / FILE, **({"crop_size": side} if folder.name == "clip" else {"size": side}))
    error = refused(folder)
    assert error.what == "the image processor gives 48 x 48 pixels, and the encoder has positions for 32 x 32"
    assert f"set {'crop_size' if folder.name == 'clip' else 'size'} to 32 in {FILE}" in error.fix


@pytest.mark.parametrize(
    "keys",
    [
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_mean": [0.5, float("nan"), 0.5]},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": "grey"},
        {"resample": 17},
        {"size": {"shortest_edge": 0}},
        {"size": {"height": -1, "width": 32}},
        {"size": "large"},
        {"rescale_factor": "much"},
        {"do_pad": True},
    ],
)
def test_settings_that_make_no_sense_are_said_in_words(keys: dict[str, Any], folder: Path) -> None:
    kinds.set_json(folder / FILE, **keys)
    with pytest.raises(ToolkitError):
        processor_of(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_file_that_is_no_json_object(content: str, folder: Path) -> None:
    (folder / FILE).write_text(content)
    assert FILE in refused(folder).what
