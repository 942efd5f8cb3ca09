from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alpha import composites_alpha
from PIL import Image
from pydantic import ValidationError
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from toolkit.errors import ToolkitError
from toolkit.models.processing import preprocess_from
from toolkit.runtime.decode import decode, to_rgb
from toolkit.runtime.preprocess import Preprocess

SHAPES = [(64, 64), (32, 32), (480, 640), (333, 517), (517, 333), (20, 17), (1, 37), (37, 1), (1, 1), (31, 200)]
"""[height, width] of images: equal to, above and below every size and crop here."""


def clip(edge: int, crop: tuple[int, int], **options: Any) -> CLIPImageProcessorPil:
    crop_size = {"height": crop[0], "width": crop[1]}
    return CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size=crop_size, **options)


def siglip(height: int, width: int, **options: Any) -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": height, "width": width}, **options)


PROCESSORS = {
    "clip": clip(32, (32, 32)),
    "clip-odd-crop": clip(47, (31, 29)),
    "clip-crop-beyond-the-edge": clip(20, (33, 24)),
    "clip-crop-alone": clip(32, (25, 40), do_resize=False),
    "clip-squash": CLIPImageProcessorPil(size={"height": 24, "width": 40}, do_center_crop=False),
    "clip-squash-and-crop": CLIPImageProcessorPil(
        size={"height": 40, "width": 32}, crop_size={"height": 31, "width": 33}
    ),
    "clip-not-rescaled": clip(32, (32, 32), do_rescale=False),
    "clip-not-normalised": clip(32, (32, 32), do_normalize=False),
    "clip-other-rescale": clip(32, (32, 32), rescale_factor=1 / 127.5),
    "siglip": siglip(32, 32),
    "siglip-oblong": siglip(24, 41),
    "siglip-not-normalised": siglip(32, 32, do_normalize=False),
}
MODES = ["1", "L", "LA", "P", "P+key", "P+table", "PA", "RGB", "RGBA", "RGB+key", "CMYK", "YCbCr", "HSV", "LAB"]


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8))


def in_mode(mode: str, height: int = 45, width: int = 61) -> Image.Image:
    name, _, transparency = mode.partition("+")
    if name in ("RGBA", "CMYK"):
        return Image.fromarray(np.asarray(noise(height, width, 4)), name)
    if name in ("YCbCr", "HSV", "LAB"):
        return Image.merge(name, noise(height, width).split())
    if name in ("LA", "PA"):
        gray, alpha, _ = noise(height, width).split()
        return Image.merge("LA", (gray, alpha)).convert(name)
    image = noise(height, width).convert(name)
    if transparency == "key":
        image.info["transparency"] = image.getpixel((width // 2, height // 2))
    if transparency == "table":
        image.info["transparency"] = bytes(range(256))
    return image


def assert_bitwise_equal(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype == np.float32
    assert np.array_equal(got, expected)


def by_transformers(processor: Any, image: Image.Image) -> np.ndarray:
    pixel_values: np.ndarray = processor(images=[image], return_tensors="np")["pixel_values"][0]
    return pixel_values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_shape_gives_what_the_training_time_processor_gives(name: str, shape: tuple[int, int]) -> None:
    processor, image = PROCESSORS[name], noise(*shape)
    preprocess = preprocess_from(processor)
    got = preprocess(image)
    assert_bitwise_equal(got, by_transformers(processor, image))
    assert got.shape == (3, *(preprocess.output_size or ()))


@composites_alpha
@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("mode", MODES)
def test_every_8_bit_mode_gives_what_the_training_time_processor_gives(mode: str, name: str) -> None:
    processor, image = PROCESSORS[name], in_mode(mode)
    assert_bitwise_equal(preprocess_from(processor)(to_rgb(image)), by_transformers(processor, image))


@pytest.mark.parametrize("shape", [(64, 64), (333, 517), (20, 17)], ids=str)
@pytest.mark.parametrize("cropped", [True, False])
@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5], ids=lambda value: Image.Resampling(value).name.lower())
def test_every_filter_gives_what_the_training_time_processor_gives(
    resample: int, cropped: bool, shape: tuple[int, int]
) -> None:
    processor = clip(32, (32, 32), resample=resample) if cropped else siglip(32, 32, resample=resample)
    assert_bitwise_equal(preprocess_from(processor)(noise(*shape)), by_transformers(processor, noise(*shape)))


@pytest.mark.parametrize("processor", [CLIPImageProcessorPil(), SiglipImageProcessorPil()], ids=["clip", "siglip"])
@pytest.mark.parametrize("shape", [(480, 640), (100, 99), (224, 225)], ids=str)
def test_the_published_settings_give_what_the_training_time_processor_gives(
    processor: Any, shape: tuple[int, int]
) -> None:
    assert_bitwise_equal(preprocess_from(processor)(noise(*shape)), by_transformers(processor, noise(*shape)))


@composites_alpha
@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P+key", "P+table", "RGB", "RGBA", "RGB+key"])
def test_a_decoded_file_gives_the_same_by_both_ways(tmp_path: Path, mode: str, name: str) -> None:
    processor, path, image = PROCESSORS[name], tmp_path / "image.png", in_mode(mode)
    image.save(path, **({"transparency": image.info["transparency"]} if "+" in mode else {}))
    got = preprocess_from(processor).batch([path])
    assert_bitwise_equal(got[0], by_transformers(processor, decode(path)))
    with Image.open(path) as stored:
        assert_bitwise_equal(got[0], by_transformers(processor, stored))


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_survives_being_written_and_read(name: str) -> None:
    preprocess = preprocess_from(PROCESSORS[name])
    again = Preprocess.model_validate_json(preprocess.model_dump_json())
    assert again == preprocess
    assert_bitwise_equal(again(noise(45, 61)), preprocess(noise(45, 61)))


def test_a_batch_is_its_images_one_by_one(tmp_path: Path) -> None:
    preprocess = preprocess_from(PROCESSORS["clip"])
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        noise(30 + index, 40).save(path)
    batch = preprocess.batch([paths[0], paths[1].read_bytes(), paths[2]])
    assert_bitwise_equal(batch, np.stack([preprocess(decode(path)) for path in paths]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": None}, "mean and std belong together"),
        ({"rescale_factor": None, "mean": None, "std": None}, "not be floating point"),
        ({"resize": "shortest_edge", "size": (4, 5)}, "one number twice"),
        ({"resize": "shortest_edge"}, "no fixed size"),
        ({"resize": None}, "no fixed size"),
        ({"resample": "sinc"}, "resample"),
        ({"flip": True}, "flip"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    whole = {"resize": "squash", "size": (4, 4), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert Preprocess.model_validate(whole).output_size == (4, 4)
    with pytest.raises(ValidationError, match=message):
        Preprocess.model_validate(whole | change)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (CLIPImageProcessorPil(do_center_crop=False), "no fixed size"),
        (CLIPImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}), "can't be expressed"),
        (SiglipImageProcessorPil(do_rescale=False, do_normalize=False), "not be floating point"),
        (SiglipImageProcessorPil(do_pad=True), "pads"),
    ],
    ids=["no-crop", "longest-edge", "integers", "pads"],
)
def test_a_processor_that_can_not_be_expressed_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(ToolkitError, match=message) as caught:
        preprocess_from(processor)
    assert caught.value.fix


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "RGB", "LA", "P"])
@pytest.mark.parametrize("size", [(300, 300), (41, 97), (5, 3)])
def test_a_grey_image_that_stays_grey_gives_the_same_values(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536 if mode == "I;16" else 256, size[::-1]).astype(np.uint16)
    image = Image.fromarray(pixels if mode == "I;16" else pixels.astype(np.uint8))
    path = tmp_path / "image.png"
    (image if mode == "I;16" else image.convert(mode)).save(path)
    preprocess = Preprocess(
        resize="shortest_edge", size=(32, 32), crop=(40, 32), mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27)
    )
    kept = decode(path, grey=True)
    assert kept.mode == ("L" if mode in ("L", "1", "I;16") else "RGB")
    assert_bitwise_equal(preprocess(kept), preprocess(decode(path)))
