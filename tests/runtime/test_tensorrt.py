"""Options of TensorRT's engines; building one needs a GPU with TensorRT."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from packaging.requirements import Requirement
from tiny_graph import SIDE, graph_bytes, outsourced

from export.bundle import ExportOptions, export_bundle
from toolkit.errors import ToolkitError
from toolkit.runs.finished_run import Run
from toolkit.runtime.cache_folder import CACHE, cache_folder
from toolkit.runtime.session import Session, loadable_providers
from toolkit.runtime.tensorrt import (
    ENGINES,
    PROFILES,
    TF32,
    EngineBuild,
    engine_folder,
    engine_options,
    has_profile,
)

IMAGES = np.random.default_rng(1).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(TF32, "0")  # and so it is taken away again
    return tmp_path / "cache"


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
    options = engine_options(graph_bytes(), {}, EngineBuild(8), {})
    assert options == {
        name: f"pixel_values:{count}x3x{SIDE}x{SIDE}" for name, count in zip(PROFILES, (1, 8, 8), strict=True)
    }
    assert has_profile(options)


@pytest.mark.parametrize(("graph", "batch_size"), [(graph_bytes(), None), (with_free_sides(), 8)])
def test_shapes_that_nobody_knows_are_left_to_what_arrives(graph: bytes, batch_size: int | None) -> None:
    assert engine_options(graph, {}, EngineBuild(batch_size), {}) == {}


def test_operators_that_tensorrt_does_not_know_are_refused() -> None:
    """Else they would run on the CPU, and a profile would not cover the parts between them."""
    model = onnx.load_from_string(graph_bytes())
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(helper.make_node("QuickGelu", ["logits"], ["more"], domain="com.microsoft"))
    with pytest.raises(ToolkitError, match="operators of ONNX Runtime's own") as caught:
        engine_options(model.SerializeToString(), {}, EngineBuild(8), {})
    assert caught.value.fix == "export again with --provider tensorrt"


def test_a_graph_that_resizes_in_float64_is_refused(finished_bundle: Path) -> None:
    with pytest.raises(ToolkitError, match="no float64") as caught:
        engine_options((finished_bundle / "model.onnx").read_bytes(), {}, EngineBuild(8), {})
    assert caught.value.fix == "export with --input pixel_values"


def test_an_export_of_images_for_tensorrt_is_refused_before_anything_is_measured(
    finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="no float64"):
        export_bundle(Run(finished_run), tmp_path / "bundle", ExportOptions(precisions=["fp32"]), provider="tensorrt")
    assert list(tmp_path.iterdir()) == []


def test_the_extra_brings_the_tensorrt_that_the_provider_was_linked_with() -> None:
    """The provider's file names libnvinfer with its major version; the extra's range is that version's."""
    (provider,) = [*(Path(ort.__file__).parent / "capi").glob("libonnxruntime_providers_tensorrt.so")] or [None]
    if provider is None:
        pytest.skip("this build of ONNX Runtime has no TensorRT provider")
    wanted = re.findall(rb"libnvinfer\.so\.(\d+)", provider.read_bytes())
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (line,) = project["optional-dependencies"]["tensorrt"]
    specifier = Requirement(line).specifier
    assert {int(each) for each in wanted} == {10}
    assert all(specifier.contains(version) == (version.split(".")[0] == "10") for version in ("10.14.1", "9.3", "11.0"))


def test_tf32_is_switched_off_unless_the_user_switched_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TF32)
    engine_options(graph_bytes(), {}, EngineBuild(), {})
    assert os.environ[TF32] == "0"
    monkeypatch.setenv(TF32, "1")
    engine_options(graph_bytes(), {}, EngineBuild(), {})
    assert os.environ[TF32] == "1"


def test_engines_of_other_weights_or_built_otherwise_have_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = outsourced("weight.bin")
    folders = [
        engine_folder(graph_bytes(), {}, None, {}),
        engine_folder(with_other_weights(), {}, None, {}),
        engine_folder(graph_bytes(), {}, 8, {}),
        engine_folder(graph_bytes(), {}, 16, {}),
        engine_folder(graph_bytes(), {}, 8, {"trt_builder_optimization_level": "5"}),
        engine_folder(graph, {"weight.bin": data}, 8, {}),
        engine_folder(graph, {"weight.bin": data[:-1] + b"\x01"}, 8, {}),
    ]
    assert engine_folder(graph_bytes(), {}, 8, {}) == folders[2]
    monkeypatch.setenv(TF32, "1")
    folders.append(engine_folder(graph_bytes(), {}, 8, {}))
    assert len(set(folders)) == len(folders)


def test_engines_are_kept_where_the_user_says(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = engine_folder(graph_bytes(), {}, None, {})
    assert folder.parent == cache_folder(ENGINES) == cache / "tensorrt"
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(ENGINES) == tmp_path / "xdg" / "clip-toolkit" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(ENGINES) == tmp_path / ".cache" / "clip-toolkit" / "tensorrt"


def test_a_folder_that_cannot_be_made_is_said(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ToolkitError, match="can't be kept here") as caught:
        engine_folder(graph_bytes(), {}, None, {})
    assert CACHE in caught.value.fix


def open_to_others(folder: Path) -> None:
    folder.chmod(0o777)


def as_link(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(("change", "says"), [(open_to_others, "others may write"), (as_link, "it is a link")])
@pytest.mark.parametrize("which", ["root", "leaf"])
def test_a_folder_that_others_may_write_to_is_refused(change: object, says: str, which: str) -> None:
    folder = engine_folder(graph_bytes(), {}, None, {})
    change(folder if which == "leaf" else folder.parent)  # type: ignore[operator]
    with pytest.raises(ToolkitError, match=says):
        engine_folder(graph_bytes(), {}, None, {})


def test_onnxruntime_knows_every_option_and_its_value() -> None:
    """It reads them only beside TensorRT; names and values stand in its libraries."""
    folder = Path(ort.__file__).parent / "capi"
    if not [*folder.glob("*providers_tensorrt*")]:
        pytest.skip("this build of ONNX Runtime has no TensorRT provider")
    (binding,) = folder.glob("onnxruntime_pybind11_state*")
    content = binding.read_bytes()
    options = engine_options(graph_bytes(), {}, EngineBuild(8, keep=True), {"trt_builder_optimization_level": "5"})
    assert [name for name in options if name.encode() + b"\0" not in content] == []
    flags = {name: value for name, value in options.items() if name.endswith("_enable")}
    assert set(flags.values()) == {"True"}
    said = "The value for the key 'trt_engine_cache_enable' should be 'True' or 'False'"
    assert said.encode() in content


def test_more_images_than_an_engine_was_built_for_are_refused() -> None:
    session = Session(graph_bytes(), threads=1)
    assert session.largest_batch is None
    session.largest_batch = 3
    assert len(session.run({"pixel_values": IMAGES[:3]})["logits"]) == 3
    with pytest.raises(ToolkitError, match="batches of up to 3 images, not 4"):
        session.run({"pixel_values": IMAGES})
    with pytest.raises(ToolkitError, match="batches of up to 3 images, not 4"):
        session.bind({"pixel_values": ort.OrtValue.ortvalue_from_numpy(IMAGES)})


def test_a_compiled_engine_inside_a_graph_is_refused(bundle: Path) -> None:
    from toolkit.runtime.bundle import Bundle

    model = onnx.load_from_string(graph_bytes())
    model.graph.node.append(helper.make_node("EPContext", [], ["engine"], domain="com.microsoft", embed_mode=1))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    Bundle(bundle).update_manifest()
    with pytest.raises(ToolkitError, match="holds a compiled engine"):
        Bundle(bundle).session()


@pytest.mark.gpu
def test_an_engine_is_built_once_and_gives_what_the_cpu_gives() -> None:
    reason = loadable_providers()["tensorrt"]
    if reason is not None:
        pytest.skip(f"TensorRT does not load: {reason}")
    expected = Session(graph_bytes()).run({"pixel_values": IMAGES})["logits"]
    build = EngineBuild(4, keep=True)
    for _ in range(2):
        logits = Session(graph_bytes(), provider="tensorrt", build=build).run({"pixel_values": IMAGES})["logits"]
        assert np.abs(logits - expected).max() <= 1e-4
    options = engine_options(graph_bytes(), {}, build, {})
    assert len(list(Path(options["trt_engine_cache_path"]).glob("*.engine"))) == 1
