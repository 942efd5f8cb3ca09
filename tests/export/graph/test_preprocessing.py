"""The preprocessing in the graph against the runtime's and transformers' own, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from transformers import BlipImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil

from export.graph.builder import GraphBuilder
from export.graph.classifier_graph import IR_VERSION, OPSET
from export.graph.preprocessing import IMAGE, PIXEL_VALUES, add_preprocessing
from toolkit.errors import ToolkitError
from toolkit.models.processing import preprocess_from
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = {"height": 48, "width": 48}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip, small": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "clip, bilinear": CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=2
    ),
    "clip, crop not square": CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 31, "width": 47}),
    "clip, crop larger than the image": CLIPImageProcessorPil(
        size={"shortest_edge": 30}, crop_size={"height": 37, "width": 45}
    ),
    "siglip": SiglipImageProcessorPil(size=SIDE),
    "siglip, bilinear": SiglipImageProcessorPil(size=SIDE, resample=2),
    "blip": BlipImageProcessorPil(),
}
SHAPES = [(48, 64), (64, 48), (31, 33), (1, 50), (50, 1), (1, 1), (2, 90), (90, 2), (32, 32), (224, 224), (97, 300)]
SHAPES += [(300, 97), (13, 640), (640, 13), (480, 640), (333, 517)]


def session_of(preprocess: Preprocess) -> Session:
    builder = GraphBuilder()
    add_preprocessing(builder, preprocess)
    entry = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", "height", "width", 3])
    result = helper.make_tensor_value_info(PIXEL_VALUES, TensorProto.FLOAT, ["batch", 3, "rows", "columns"])
    constants = list(builder.initializers.values())
    graph = helper.make_graph(builder.nodes, "preprocessing", [entry], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return Session(model.SerializeToString(), threads=1)


def in_graph(session: Session, images: np.ndarray) -> np.ndarray:
    return session.compute([PIXEL_VALUES], {IMAGE: images})[0]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels that reach both ends of the scale, so that overshoots are clipped too."""
    rng = np.random.default_rng([height, width, seed])
    return np.clip(rng.normal(128, 110, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_bit_equals_the_processors(name: str) -> None:
    processor: Any = PROCESSORS[name]
    session = session_of(preprocess_from(processor))
    for height, width in SHAPES:
        pixels = noise(height, width)
        expected = processor(images=[Image.fromarray(pixels)], return_tensors="np")["pixel_values"]
        assert np.array_equal(in_graph(session, pixels[None]), expected), (height, width)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_every_length_of_a_side_is_resampled_exactly(resample: str) -> None:
    """All lengths from 1 to 400 along each axis: up- and downscaling, and both orders of the passes."""
    preprocess = Preprocess(resize="squash", size=(48, 48), resample=resample)  # type: ignore[arg-type]
    session = session_of(preprocess)
    for length in range(1, 401):
        for shape in ((length, 48), (48, length), (length, 30)):
            pixels = noise(*shape)
            expected = preprocess(Image.fromarray(pixels))
            assert np.array_equal(in_graph(session, pixels[None])[0], expected), shape


def test_tall_images_are_resampled_in_pillows_order() -> None:
    """Pillow begins with the rows where the height shrinks by more than twice what the width does."""
    preprocess = Preprocess(resize="squash", size=(32, 32))
    session = session_of(preprocess)
    for height, width in ((200, 115), (200, 116), (200, 117), (33, 32), (34, 33), (400, 20), (32, 400)):
        pixels = noise(height, width)
        assert np.array_equal(in_graph(session, pixels[None])[0], preprocess(Image.fromarray(pixels))), (height, width)


def test_twelve_megapixels() -> None:
    preprocess = preprocess_from(PROCESSORS["clip"])
    pixels = noise(3000, 4000)
    assert np.array_equal(in_graph(session_of(preprocess), pixels[None])[0], preprocess(Image.fromarray(pixels)))


def test_a_window_of_the_most_pixels_that_are_summed_exactly() -> None:
    """White is the worst case: all matmuls have their largest size."""
    preprocess = Preprocess(resize="squash", size=(8, 8))
    pixels = np.full((2040, 2040, 3), 255, np.uint8)  # windows of 4 * 255 + 1 pixels
    assert np.array_equal(in_graph(session_of(preprocess), pixels[None])[0], preprocess(Image.fromarray(pixels)))


def test_a_batch_is_its_images() -> None:
    preprocess = preprocess_from(PROCESSORS["clip, small"])
    session = session_of(preprocess)
    images = np.stack([noise(50, 70, seed) for seed in range(3)])
    expected = np.stack([preprocess(Image.fromarray(pixels)) for pixels in images])
    assert np.array_equal(in_graph(session, images), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": None, "size": (1, 1), "crop": (20, 24), "mean": CLIP_MEAN, "std": CLIP_STD},
        {"resize": "squash", "size": (20, 24)},
        {"resize": "squash", "size": (20, 24), "rescale_factor": None, "mean": CLIP_MEAN, "std": CLIP_STD},
        {"resize": "squash", "size": (20, 24), "rescale_factor": 1 / 127.5, "mean": (1, 1, 1), "std": (1, 1, 1)},
        {"resize": "squash", "size": (20, 24), "rescale_factor": 0.00392156862745098},
        {"resize": "squash", "size": (20, 24), "rescale_factor": 0.0037},
    ],
)
def test_every_bit_with_other_settings(settings: dict[str, Any]) -> None:
    preprocess = Preprocess(**settings)
    session = session_of(preprocess)
    for shape in ((20, 24), (19, 25), (70, 41)):
        pixels = noise(*shape)
        assert np.array_equal(in_graph(session, pixels[None])[0], preprocess(Image.fromarray(pixels)))


@pytest.mark.parametrize("resample", ["lanczos", "hamming", "box", "nearest"])
def test_a_filter_that_has_no_exact_form_is_named(resample: str) -> None:
    preprocess = Preprocess(resize="squash", size=(8, 8), resample=resample)  # type: ignore[arg-type]
    with pytest.raises(ToolkitError, match=resample) as caught:
        add_preprocessing(GraphBuilder(), preprocess)
    assert "--input pixel_values" in caught.value.fix
