"""A provider counts as there when it computes, in each precision that it is said to run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from probe_graphs import KERNEL, MATRIX, probe_graph

from toolkit.errors import ToolkitError
from toolkit.runtime import session
from toolkit.runtime.libraries import names_a_library
from toolkit.runtime.precision import SPECS
from toolkit.runtime.session import PROBED, PROBES, Session, loadable_providers, probe, probed_providers, require_active

EXPECTED = np.einsum("oc,bchw->bohw", KERNEL[:, :, 0, 0], PROBED) @ MATRIX
PRELOADED = """
import json, sys
from toolkit.errors import ToolkitError
from toolkit.runtime.session import PROBE, Session
try:
    Session(PROBE, provider=sys.argv[1])
except ToolkitError:
    pass
print(json.dumps("tensorrt" in sys.modules))
"""


@pytest.mark.parametrize("precision", SPECS)
def test_the_package_holds_the_probe_as_it_is_written_here(precision: str) -> None:
    onnx.checker.check_model(probe_graph(precision), full_check=True)
    assert (PROBES / f"{precision}.onnx").read_bytes() == probe_graph(precision).SerializeToString()


@pytest.mark.parametrize("precision", SPECS)
def test_a_probe_convolves_and_multiplies_in_its_precision(precision: str) -> None:
    """cuDNN and cuBLAS both; in bf16 the convolution is of fp32, as in the graphs themselves."""
    inferred = onnx.shape_inference.infer_shapes(probe_graph(precision))
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    by_operator = {node.op_type: node for node in inferred.graph.node}
    assert {"Conv", "MatMul"} <= set(by_operator)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(SPECS[precision].element)) if precision != "bf16" else 16
    given = {*kinds.values(), *(tensor.data_type for tensor in inferred.graph.initializer)}
    assert element in given


@pytest.mark.parametrize("precision", [each for each, spec in SPECS.items() if "cpu" in spec.providers])
def test_the_answer_is_the_same_whole_numbers_in_every_precision(precision: str) -> None:
    got = Session(PROBES / f"{precision}.onnx").compute(["y"], {"x": PROBED})[0]
    assert np.array_equal(got, EXPECTED)
    assert np.abs(EXPECTED).max() < 2**8  # whole numbers that bf16 holds
    assert len(np.unique(EXPECTED)) > 8


def test_every_provider_is_asked_in_what_it_is_said_to_run() -> None:
    found = probed_providers()
    assert {name: set(reasons) for name, reasons in found.items()} == {
        name: {spec.name for spec in SPECS.values() if name in spec.providers} for name in found
    }
    assert set(found["cpu"].values()) == {None}
    assert loadable_providers() == {name: reasons["fp32"] for name, reasons in found.items()}


def test_a_provider_that_gives_other_numbers_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A probe whose kernel is another one stands for a provider that computes wrongly."""
    wrong = probe_graph("fp32")
    wrong.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(KERNEL + 1, "kernel"))
    (tmp_path / "int8.onnx").write_bytes(wrong.SerializeToString())
    (tmp_path / "fp32.onnx").write_bytes((PROBES / "fp32.onnx").read_bytes())
    monkeypatch.setattr(session, "PROBES", tmp_path)
    assert probe("cpu", "int8") == "it gives other numbers than the CPU"


def test_what_fails_only_when_it_runs_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a convolution does without cuDNN: the session opens, the first run raises."""
    failing = probe_graph("fp32")
    for value in (*failing.graph.input, *failing.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    (tmp_path / "int8.onnx").write_bytes(failing.SerializeToString())
    (tmp_path / "fp32.onnx").write_bytes((PROBES / "fp32.onnx").read_bytes())
    monkeypatch.setattr(session, "PROBES", tmp_path)
    assert "can't be computed" in str(probe("cpu", "int8"))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_server_refuses_a_provider_that_does_not_compute(provider: str) -> None:
    if probe(provider) is None:
        pytest.skip(f"{provider} computes here")
    with pytest.raises(ToolkitError) as caught:
        require_active(provider)
    assert "onnxruntime-gpu" in caught.value.fix
    assert "--provider cpu" in caught.value.fix


def test_a_provider_that_computes_is_let_in() -> None:
    assert probe("cpu") is None
    require_active("cpu")


@pytest.mark.parametrize(("provider", "wanted"), [("tensorrt", True), ("cuda", False)])
def test_tensorrts_package_is_imported_before_its_provider_loads(provider: str, wanted: bool, tmp_path: Path) -> None:
    """Its import loads libnvinfer, which ONNX Runtime's own preloading does not know."""
    if f"{'Tensorrt' if provider == 'tensorrt' else 'CUDA'}ExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no such provider")
    (tmp_path / "tensorrt.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PRELOADED}", provider],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) is wanted


@pytest.mark.parametrize(
    ("message", "is_library"),
    [
        ("CUDNN failure 1002: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED ; GPU=0", True),
        ("libnvinfer.so.10: cannot open shared object file: No such file or directory", True),
        ("Failed to allocate memory for requested buffer of size 1024", False),
    ],
)
def test_an_error_that_names_a_library_is_not_about_the_batch(message: str, is_library: bool) -> None:
    assert names_a_library(message) is is_library
