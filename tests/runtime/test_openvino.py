"""Sessions of OpenVINO: what they give, what they refuse, and that nothing is sent home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_graph import METADATA, SIDE, expected_logits, graph_bytes, outsourced, rounding

from toolkit.errors import ToolkitError
from toolkit.runtime import openvino_library
from toolkit.runtime.open_session import loadable_providers, open_session, require_active
from toolkit.runtime.openvino_library import why_not
from toolkit.runtime.openvino_session import OpenVinoSession, production_properties
from toolkit.runtime.providers import require_precision, runnable
from toolkit.runtime.session import Session

pytest.importorskip("openvino")
IMAGES = np.random.default_rng(1).normal(0, 1, (5, 3, SIDE, SIDE)).astype(np.float32)
FEED = {"pixel_values": IMAGES}
NO_OPENVINO = "import sys; sys.modules['openvino'] = None\n"


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(graph_bytes(), provider="openvino", threads=1)


def test_logits_and_probabilities_are_those_of_the_graph(session: Session) -> None:
    outputs = session.run(FEED)
    logits = outputs["logits"]
    assert logits.dtype == np.float32
    assert np.abs(logits - expected_logits(IMAGES)).max() <= rounding(IMAGES)
    raised = np.exp(logits - logits.max(1, keepdims=True))
    assert np.abs(outputs["probabilities"] - raised / raised.sum(1, keepdims=True)).max() <= 1e-6


def test_it_says_of_a_graph_what_onnxruntimes_session_says(session: Session) -> None:
    other = Session(graph_bytes(), threads=1)
    for name in ("inputs", "given", "input", "outputs", "main_outputs", "classes", "metadata", "takes_text", "threads"):
        assert getattr(session, name) == getattr(other, name), name
    assert session.metadata == METADATA
    assert session.provider == "openvino"


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_results_are_the_callers_own(session: Session, batch_size: int) -> None:
    """The next run must not write into what an earlier one gave."""
    first = session.run(FEED)["logits"]
    kept = first.copy()
    session.run({"pixel_values": -IMAGES})
    assert np.array_equal(first, kept)
    assert np.abs(session.run_batches(FEED, batch_size)["logits"] - kept).max() <= 2 * rounding(IMAGES)


def test_threads_share_a_session_in_turns(session: Session) -> None:
    expected = session.run(FEED)["logits"]
    with ThreadPoolExecutor(4) as threads:
        for given in threads.map(lambda _: session.run(FEED)["logits"], range(40)):
            assert np.array_equal(given, expected)


def test_a_closed_session_still_says_what_it_takes() -> None:
    session = open_session(graph_bytes(), provider="openvino", threads=1)
    session.close()
    assert list(session.inputs) == ["pixel_values"]
    assert session.outputs == ["logits", "probabilities"]


@pytest.mark.parametrize(
    ("feed", "what"),
    [
        ({}, "takes pixel_values too"),
        ({"image": IMAGES}, "takes no image"),
        ({"pixel_values": IMAGES.astype(np.float64)}, r"must be float32 \[batch, 3, 4, 4\]"),
        ({"pixel_values": IMAGES[:0]}, r"must be float32 \[batch, 3, 4, 4\]"),
    ],
)
def test_what_the_graph_does_not_take_is_refused(session: Session, feed: dict[str, np.ndarray], what: str) -> None:
    with pytest.raises(ToolkitError, match=what):
        session.run(feed)


@pytest.mark.parametrize("offset", [0, 4096])
def test_external_data_comes_from_memory_and_may_go_afterwards(session: Session, offset: int) -> None:
    graph, data = outsourced("weight.bin", offset=offset)
    content = bytearray(data)
    other = open_session(graph, provider="openvino", threads=1, external_data={"weight.bin": bytes(content)})
    content[:] = bytes(len(content))
    assert np.array_equal(other.run(FEED)["logits"], session.run(FEED)["logits"])


def test_a_file_and_a_folder_of_data_are_found(session: Session, tmp_path: Path) -> None:
    graph, data = outsourced("weight.bin")
    (tmp_path / "model.onnx").write_bytes(graph)
    (tmp_path / "weight.bin").write_bytes(data)
    for other in (
        open_session(tmp_path / "model.onnx", provider="openvino", threads=1),
        open_session(graph, provider="openvino", threads=1, external_data=tmp_path),
    ):
        assert np.array_equal(other.run(FEED)["logits"], session.run(FEED)["logits"])


def test_bytes_never_have_a_file_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = outsourced("weight.bin")
    (tmp_path / "weight.bin").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    for given in (None, {}, {"other.bin": data}):
        with pytest.raises(ToolkitError, match=r"external data 'weight\.bin' was not given"):
            open_session(graph, provider="openvino", external_data=given)


@pytest.mark.parametrize("location", ["../weight.bin", "folder/weight.bin", "graph.onnx"])
def test_data_is_put_nowhere_but_beside_the_graph(location: str) -> None:
    graph, data = outsourced(location)
    with pytest.raises(ToolkitError, match="does not lie beside it"):
        open_session(graph, provider="openvino", external_data={location: data})


@pytest.mark.parametrize("content", [b"", b"no graph at all", graph_bytes()[:100]], ids=["empty", "text", "cut"])
def test_a_damaged_graph_is_the_users_to_mend(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    for model in (content, tmp_path / "model.onnx"):
        with pytest.raises(ToolkitError, match="can't open the graph") as caught:
            open_session(model, provider="openvino")
        assert "\n" not in caught.value.what


def with_operator(operator: str, domain: str) -> bytes:
    model = onnx.load_from_string(graph_bytes())
    model.graph.node[0].CopyFrom(helper.make_node(operator, ["pixel_values"], ["flat"], domain=domain))
    return model.SerializeToString()


def test_operators_of_onnxruntimes_own_are_refused() -> None:
    with pytest.raises(ToolkitError, match="not ONNX Runtime's own, such as QuickGelu") as caught:
        open_session(with_operator("QuickGelu", "com.microsoft"), provider="openvino")
    assert caught.value.fix == "export again with --provider openvino"


def in_bf16() -> bytes:
    """The graph with its matmul in bfloat16."""
    model = onnx.load_from_string(graph_bytes())
    weight, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    del model.graph.initializer[:]
    for name, values in (("weight", weight), ("bias", bias)):
        raw = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
        model.graph.initializer.append(
            helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, raw.tobytes(), raw=True)
        )
    gemm = model.graph.node[1]
    gemm.input[0], gemm.output[0] = "flat/half", "logits/half"
    model.graph.node.insert(1, helper.make_node("Cast", ["flat"], ["flat/half"], to=TensorProto.BFLOAT16))
    model.graph.node.insert(3, helper.make_node("Cast", ["logits/half"], ["logits"], to=TensorProto.FLOAT))
    return model.SerializeToString()


def test_float32_is_computed_in_float32_whatever_the_processor_has(session: Session) -> None:
    """OpenVINO's own choice on a processor with bf16 is bf16."""
    assert {node.element for node in session.executed_nodes(FEED)} <= {"f32"}


@pytest.mark.skipif(why_not("bf16") is not None, reason="the processor has no bf16")
def test_a_graph_in_bf16_is_computed_in_bf16() -> None:
    session = open_session(in_bf16(), provider="openvino", threads=1)
    heavy = [node for node in session.executed_nodes(FEED) if node.operator == "FullyConnected"]
    assert [node.element for node in heavy] == ["bf16"]
    error = np.abs(session.run(FEED)["logits"] - expected_logits(IMAGES)).max()
    assert rounding(IMAGES) < error <= 0.05


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Processor:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8", "BIN"]

    monkeypatch.setattr(openvino_library, "core", Processor)
    with pytest.raises(ToolkitError, match="computes no bf16") as caught:
        require_precision("bf16", "openvino")
    assert "fp32 or int8" in caught.value.fix
    assert runnable(["fp32", "bf16", "int8"], "openvino") == ["fp32", "int8"]


def test_fp16_is_refused() -> None:
    with pytest.raises(ToolkitError, match="OpenVINO can't run fp16") as caught:
        require_precision("fp16", "openvino")
    assert "--precision fp32 or bf16 or int8" in caught.value.fix


def test_it_loads_here_and_doctor_says_so() -> None:
    assert loadable_providers()["openvino"] is None
    require_active("openvino")


def test_openvino_takes_every_property(session: Session) -> None:
    """A name that it does not know is an error when a graph is compiled; a value may be ignored."""
    assert isinstance(session, OpenVinoSession)
    for name, value in production_properties(1).items():
        known = session._compiled.get_property(name)
        said = known.get_type_name() if hasattr(known, "get_type_name") else getattr(known, "name", known)
        assert str(said) == str(value), name


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_a_host_without_the_package_is_told_what_to_install(tmp_path: Path) -> None:
    script = NO_OPENVINO + (
        "sys.argv = ['toolkit', 'verify', sys.argv[1], '--provider', 'openvino']\n"
        "from toolkit.cli.main import main\nmain()"
    )
    from tiny_bundle import write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "bundle")
    done = subprocess.run([sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "clip-toolkit[openvino]"' in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_what_is_missing() -> None:
    script = NO_OPENVINO + "import json\nfrom toolkit.runtime.open_session import loadable_providers\n"
    done = run_python(script + "print(json.dumps(loadable_providers()))")
    assert json.loads(done.stdout)["openvino"] == "the package openvino is not installed"


def test_nothing_is_sent_home_and_nothing_is_written_there(tmp_path: Path) -> None:
    """``import openvino`` reports through the package ``openvino-telemetry``, which keeps an identifier at home."""
    pytest.importorskip("openvino_telemetry")
    script = (
        "import sys\nfrom toolkit.runtime.open_session import require_active\nrequire_active('openvino')\n"
        "assert 'openvino' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "import openvino_telemetry\n"  # whoever wants it may have it
    )
    done = run_python(script, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "openvino" in path.name]


def test_nothing_loads_openvino_that_is_not_asked_to() -> None:
    script = (
        "import sys\nfrom toolkit.runtime.open_session import open_session, require_active\nrequire_active('cpu')\n"
        "assert 'openvino' not in sys.modules"
    )
    assert run_python(script).returncode == 0
