"""Which folders, names and graphs become a Triton repository, and which are refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_graph import graph_bytes, outsourced
from triton_bundles import config_in, tiny, tuned

import toolkit
from export.graph.builder import IR_VERSION, OPSET
from export.triton.release import RELEASE, TritonRelease, fitted
from export.triton.repository import write_repository
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.providers import PROVIDERS
from toolkit.runtime.session import Session


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_repository_holds_what_triton_and_kserve_need(tmp_path: Path) -> None:
    written = write_repository(tiny(tmp_path / "digits_v2"), tmp_path / "models")
    assert files_in(tmp_path / "models") == {
        *("inference_service.yaml", "inference_service_toolkit.yaml"),
        *("digits_v2/config.pbtxt", "digits_v2/labels.txt", "digits_v2/1/model.onnx"),
    }
    assert (written.model, written.lowered) == ("digits_v2", False)
    assert (tmp_path / "models" / "digits_v2" / "1" / "model.onnx").read_bytes() == graph_bytes()


def test_external_data_lies_where_the_graph_looks_for_it(tmp_path: Path) -> None:
    graph, data = outsourced("model.onnx.data")

    def outsource(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(graph)
        (folder / "model.onnx.data").write_bytes(data)

    bundle = tiny(tmp_path / "b", outsource)
    write_repository(bundle, tmp_path / "models")
    feed = bundle.golden().inputs
    outputs = Session(tmp_path / "models" / "b" / "1" / "model.onnx", threads=1).run(feed)
    expected = bundle.session(threads=1).run(feed)
    assert all(np.array_equal(outputs[name], expected[name]) for name in expected)


def test_data_that_would_take_the_graph_s_place_is_refused(tmp_path: Path) -> None:
    graph, data = outsourced("model.onnx")

    def exchange(folder: Path) -> None:
        (folder / "model.fp16.onnx").write_bytes(graph)
        (folder / "model.onnx").write_bytes(data)

    bundle = tiny(tmp_path / "b", exchange)
    with pytest.raises(ToolkitError, match=r"external data is called model\.onnx"):
        write_repository(bundle, tmp_path / "models", precision="fp16")
    assert not (tmp_path / "models").exists()


def test_the_toolkit_s_graphs_are_older_than_the_release_reads() -> None:
    assert RELEASE.opset >= OPSET
    assert RELEASE.ir_version >= IR_VERSION
    assert fitted(graph_bytes(), "graph") == graph_bytes()


def test_a_newer_file_version_is_lowered_and_gives_the_same_bits(finished_bundle: Path, tmp_path: Path) -> None:
    old = TritonRelease("20.01", "1.17.0", opset=OPSET, ir_version=IR_VERSION - 1)
    bundle = Bundle(finished_bundle)
    written = write_repository(bundle, tmp_path / "models", threads=1, release=old)
    assert written.lowered
    path = tmp_path / "models" / bundle.path.name / "1" / "model.onnx"
    lowered, original = onnx.load(path), onnx.load(finished_bundle / "model.onnx")
    onnx.checker.check_model(lowered, full_check=True)
    assert (lowered.ir_version, original.ir_version) == (IR_VERSION - 1, IR_VERSION)
    lowered.ir_version = original.ir_version
    assert lowered == original


def test_newer_operators_are_refused(tmp_path: Path) -> None:
    old = TritonRelease("20.01", "1.11.0", opset=16, ir_version=8)
    with pytest.raises(ToolkitError, match=r"opset 17, and ONNX Runtime 1\.11\.0 of Triton 20\.01 runs up to 16"):
        write_repository(tiny(tmp_path / "b"), tmp_path / "models", release=old)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["zwölf", "two words", "-dash", ".hidden", "50%", "a" * 64])
def test_a_name_that_no_client_can_ask_for_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="can't ask for a model called") as caught:
        write_repository(tiny(tmp_path / name), tmp_path / "models")
    assert "name the bundle's folder" in caught.value.fix
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"provider": "gpu"}, "no provider 'gpu'"),
        ({"precision": "int8"}, "no int8 graph"),
        ({"precision": "int4"}, "no int4 graph"),
    ],
)
def test_what_is_not_there_is_refused(asked: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=says):
        write_repository(tiny(tmp_path / "b"), tmp_path / "models", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "provider"), [("bf16", "cpu"), ("bf16", "tensorrt"), ("int8", "cuda")])
def test_a_precision_that_the_backend_has_no_kernels_for_is_refused(
    precision: str, provider: str, tmp_path: Path
) -> None:
    file = f"model.{precision}.onnx"
    bundle = tiny(tmp_path / "b", lambda path: (path / file).write_bytes(graph_bytes()))
    for each in (bundle, tiny(tmp_path / "c", lambda path: _tuned_in(path, file, precision, provider))):
        with pytest.raises(ToolkitError, match=f"backend can't run {precision}") as caught:
            write_repository(each, tmp_path / "models", precision=precision, provider=provider)
        assert "--provider" in caught.value.fix


def _tuned_in(path: Path, file: str, precision: str, provider: str) -> None:
    (path / file).write_bytes(graph_bytes())
    tuned(precision=precision, provider=provider)(path)


def test_tensorrt_takes_pixel_values_of_standard_operators_alone(
    finished_bundle: Path, pixel_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="TensorRT has no float64") as caught:
        write_repository(Bundle(finished_bundle), tmp_path / "models", provider="tensorrt")
    assert caught.value.fix == "export with --input pixel_values"
    with pytest.raises(ToolkitError, match="operators of ONNX Runtime's own"):
        write_repository(Bundle(pixel_bundle), tmp_path / "models", provider="tensorrt")
    assert not (tmp_path / "models").exists()


def test_folders_that_hold_something_else_stay_as_they_are(tmp_path: Path) -> None:
    bundle = tiny(tmp_path / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        for name in ("full", "file"):
            with pytest.raises(ToolkitError, match="something that is no Triton repository"):
                write_repository(bundle, tmp_path / name, force=force)
        for inside in (bundle.path, bundle.path / "models", tmp_path):
            with pytest.raises(ToolkitError, match="can't lie in one another"):
                write_repository(bundle, inside, force=force)
    assert files_in(tmp_path / "full") == {"thesis.txt"}
    Bundle(bundle.path).check_files()


def test_a_repository_is_replaced_whole_and_only_when_forced(tmp_path: Path) -> None:
    bundle, out = tiny(tmp_path / "b"), tmp_path / "models"
    write_repository(bundle, out)
    (out / "b" / "7").mkdir()
    before = files_in(out)
    with pytest.raises(ToolkitError, match="a Triton repository is there already") as caught:
        write_repository(bundle, out)
    assert "--force" in caught.value.fix
    write_repository(bundle, out, threads=7, force=True)
    assert files_in(out) == before
    assert not (out / "b" / "7").exists()
    assert config_in(out).parameters["intra_op_thread_count"].string_value == "7"


def test_a_label_of_two_lines_is_refused(tmp_path: Path) -> None:
    bundle = tiny(tmp_path / "b", lambda path: write_json(path / "labels.json", ["blue", "green\nish", "red"]))
    with pytest.raises(ToolkitError, match="a label a line"):
        write_repository(bundle, tmp_path / "models")


def test_a_changed_file_is_not_passed_on(tmp_path: Path) -> None:
    bundle = tiny(tmp_path / "b")
    (bundle.path / "labels.json").write_text('["a", "b", "c"]')
    with pytest.raises(ToolkitError, match="differs from the manifest"):
        write_repository(Bundle(bundle.path), tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.fixture
def cli() -> Callable[..., Any]:
    def run(*arguments: object, cwd: Path) -> Any:
        command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)

    return run


def test_the_verb_says_what_it_wrote(cli: Callable[..., Any], tmp_path: Path) -> None:
    tiny(tmp_path / "digits")
    done = cli("triton", "digits", "--out", "models", "--provider", "cuda", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["provider"], said["triton"], said["max_batch_size"]) == ("digits", "cuda", "26.05", 32)
    assert "toolkit tune" in done.stderr
    again = cli("triton", "digits", "--out", "models", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    shown = cli("triton", "digits", "--out", "models", "--force", cwd=tmp_path)
    assert "next: tritonserver --model-repository=models" in shown.stdout


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_export_writes_the_repository_after_the_bundle(finished_run: Path, tmp_path: Path) -> None:
    bundle = toolkit.export(finished_run, out=tmp_path / "b", images=8, triton=tmp_path / "models", threads=1)
    assert config_in(tmp_path / "models").name == "b"
    assert (tmp_path / "models" / "b" / "1" / "model.onnx").read_bytes() == bundle.read("model.onnx")


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
@pytest.mark.parametrize(
    ("out", "triton", "provider", "says"),
    [
        ("two words", "models", "cpu", "can't ask for a model called 'two words'"),
        ("b", "b/models", "cpu", "can't lie in one another"),
        ("b", "full", "cpu", "something that is no Triton repository"),
        ("b", "models", "tensorrt", "TensorRT has no float64"),
    ],
)
def test_export_refuses_before_it_works(
    out: str, triton: str, provider: str, says: str, finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime knows no TensorRT")
    with pytest.raises(ToolkitError, match=says):
        toolkit.export(finished_run, out=tmp_path / out, triton=tmp_path / triton, provider=provider)
    assert {path.name for path in tmp_path.iterdir()} == {"full"}
