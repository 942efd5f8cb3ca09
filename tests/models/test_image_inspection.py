"""What an inspection shows is what the runtime's preprocessing gives, to the pixel and to the bit."""

from __future__ import annotations

from pathlib import Path

import kinds
import numpy as np
import pytest
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.models.image_inspection import grey_levels, inspect_image
from toolkit.runtime.preprocess import Preprocess

FAMILIES = ["clip", "siglip", "siglip2", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "blip"]


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(61, 83).save(folder / "wide.png")
    noise(90, 40).save(folder / "tall.png")
    noise(50, 70, 1).save(folder / "grey.png")
    noise(40, 44, 4).save(folder / "alpha.png")
    noise(48, 80).save(folder / "turned.jpg", exif=turned)
    noise(20, 24).save(folder / "small.png")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["wide", "tall", "grey", "alpha", "turned", "small"])
def test_what_the_encoder_sees_is_what_the_runtime_gives(
    name: str, kind: str, encoders: dict[str, Path], images: dict[str, Path]
) -> None:
    found = inspect_image(str(encoders[name]), images[kind])
    preprocess = found.preprocess
    assert np.array_equal(found.pixel_values, preprocess.batch([images[kind]])[0])
    expected = preprocess.cropped(np.asarray(preprocess.resized(preprocess.decoded(images[kind]))))
    assert np.array_equal(found.seen, expected)
    assert np.array_equal(found.seen, found.cropped)
    assert np.array_equal(preprocess.normalized(found.seen), found.pixel_values)
    if found.window is not None:
        left, top, width, height = found.window
        resized = np.asarray(found.resized)
        assert np.array_equal(resized[top : top + height, left : left + width], found.cropped)


def test_orientation_is_applied(encoders: dict[str, Path], images: dict[str, Path]) -> None:
    found = inspect_image(str(encoders["clip"]), images["turned"])
    assert found.decoded.size == (48, 80)
    assert found.steps()[0] == ("decoded", "48 x 80 pixels, upright, RGB")


@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, None])
@pytest.mark.parametrize("mean", [(0.4, 0.5, 0.6), None])
def test_every_grey_level_comes_back(factor: float | None, mean: tuple[float, float, float] | None) -> None:
    if factor is None and mean is None:
        return  # that would be no floating point
    std = None if mean is None else (0.2, 0.3, 0.25)
    preprocess = Preprocess(resize="squash", size=(16, 16), rescale_factor=factor, mean=mean, std=std)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(grey_levels(preprocess, preprocess.normalized(levels)), levels)


def test_an_encoder_without_a_description_shows_its_processor_alone(tiny_swin: Path, images: dict[str, Path]) -> None:
    found = inspect_image(str(tiny_swin), images["wide"])
    assert found.attention is None
    assert "no family describes traced:swin" in found.without_attention
    assert found.seen.shape == (32, 32, 3)
    assert found.as_json()["attention"] is None


def test_a_processor_of_another_size_shows_its_steps_and_says_so(
    encoders: dict[str, Path], images: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders["siglip"], tmp_path / "siglip")
    kinds.set_json(folder / "preprocessor_config.json", size={"height": 40, "width": 40})
    found = inspect_image(str(folder), images["wide"])
    assert found.seen.shape == (40, 40, 3)
    assert found.attention is None
    assert "gives 40 x 40 pixels, and the encoder has positions for 32 x 32" in found.without_attention


def test_a_checkpoint_without_projection_is_inspected_as_it_is(
    encoders: dict[str, Path], images: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "clip", kinds.without("visual_projection"))
    found = inspect_image(str(folder), images["wide"])
    assert found.encoder.embedding == "pooled"
    assert found.attention is not None


def test_what_is_no_image_is_refused_before_the_encoder_is_read(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ToolkitError, match="unreadable image"):
        inspect_image(str(tmp_path / "no-encoder-either"), tmp_path / "no.png")
