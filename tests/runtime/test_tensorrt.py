"""Options of TensorRT's engines; building one needs a GPU with TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_graph import SIDE, graph_bytes, outsourced

from toolkit.errors import ToolkitError
from toolkit.runtime.session import Session, loadable_providers
from toolkit.runtime.tensorrt import CACHE, PROFILES, cache_folder, engine_options, has_profile

IMAGES = np.random.default_rng(1).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder_of(graph: bytes, *given: object) -> str:
    return engine_options(graph, *given)["trt_engine_cache_path"]  # type: ignore[arg-type]


def with_weights(dtype: type) -> bytes:
    """The graph with one more weight, of some type."""
    model = onnx.load_from_string(graph_bytes())
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, dtype), "other"))
    return model.SerializeToString()


def with_other_weights() -> bytes:
    """The graph fine-tuned: the same names, another weight."""
    model = onnx.load_from_string(graph_bytes())
    first = model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) + 1, first.name))
    return model.SerializeToString()


def with_free_sides() -> bytes:
    model = onnx.load_from_string(graph_bytes())
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    return model.SerializeToString()


def test_the_profile_spans_one_image_to_the_largest_batch_and_is_quickest_there() -> None:
    options = engine_options(graph_bytes(), batch_size=8)
    assert [options[name] for name in PROFILES] == [f"pixel_values:{count}x3x{SIDE}x{SIDE}" for count in (1, 8, 8)]
    assert has_profile(options)


@pytest.mark.parametrize(("graph", "batch_size"), [(graph_bytes(), None), (with_free_sides(), 8)])
def test_shapes_that_nobody_knows_are_left_to_what_arrives(graph: bytes, batch_size: int | None) -> None:
    options = engine_options(graph, batch_size=batch_size)
    assert not has_profile(options)
    assert not set(PROFILES) & set(options)


def test_engines_of_other_weights_have_another_folder() -> None:
    graph, data = outsourced("weight.bin")
    folders = [
        folder_of(graph_bytes()),
        folder_of(with_other_weights()),
        folder_of(graph_bytes(), None, 8),
        folder_of(graph_bytes(), None, 16),
        folder_of(graph, {"weight.bin": data}),
        folder_of(graph, {"weight.bin": data[:-1] + b"\x01"}),
    ]
    assert len(set(folders)) == len(folders)
    assert folder_of(graph_bytes(), None, 8) == folders[2]


def test_engines_are_kept_where_the_user_says(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(folder_of(graph_bytes()))
    assert folder.parent == cache_folder() == cache / "tensorrt"
    assert folder.stat().st_mode & 0o077 == 0
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "clip-toolkit" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clip-toolkit" / "tensorrt"


def test_a_folder_that_cannot_be_made_is_said(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ToolkitError, match="can't be kept here") as caught:
        engine_options(graph_bytes())
    assert CACHE in caught.value.fix


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float32, ("0", "0")), (np.float16, ("1", "0")), (np.int8, ("0", "1"))]
)
def test_an_engine_rounds_as_the_graph_does_and_no_more(dtype: type, expected: tuple[str, str]) -> None:
    options = engine_options(with_weights(dtype))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == expected


def test_onnxruntime_knows_every_option() -> None:
    """Its TensorRT library checks them, but loads only beside TensorRT; the names stand in it."""
    (library, *_) = [*Path(ort.__file__).parent.glob("capi/*providers_tensorrt*"), None]
    if library is None:
        pytest.skip("this build of ONNX Runtime has no TensorRT provider")
    content = library.read_bytes()
    options = engine_options(graph_bytes(), batch_size=8)
    assert [name for name in options if name.encode() + b"\0" not in content] == []


def test_more_images_than_an_engine_was_built_for_are_refused() -> None:
    session = Session(graph_bytes(), threads=1)
    assert session.largest_batch is None
    session.largest_batch = 3
    assert len(session.run(IMAGES[:3])[0]) == 3
    with pytest.raises(ToolkitError, match="batches of up to 3 images, not 4"):
        session.run(IMAGES)


@pytest.mark.gpu
def test_an_engine_is_built_once_and_gives_what_the_cpu_gives() -> None:
    reason = loadable_providers()["tensorrt"]
    if reason is not None:
        pytest.skip(f"TensorRT does not load: {reason}")
    expected, _ = Session(graph_bytes()).run(IMAGES)
    for _ in range(2):
        logits, _ = Session(graph_bytes(), provider="tensorrt", batch_size=4).run(IMAGES)
        assert np.abs(logits - expected).max() <= 1e-3  # products in TF32
    folder = Path(folder_of(graph_bytes(), None, 4))
    assert len(list(folder.glob("*.engine"))) == 1
