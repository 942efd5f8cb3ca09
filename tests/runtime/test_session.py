from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tiny_graph import LABELS, METADATA, SIDE, expected_logits, graph_bytes, outsourced, rounding

from toolkit.errors import ToolkitError
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.providers import PROVIDERS, runnable, several_providers
from toolkit.runtime.session import Session, loadable_providers

IMAGES = np.random.default_rng(1).normal(0, 1, (7, 3, SIDE, SIDE)).astype(np.float32)
FEED = {"pixel_values": IMAGES}


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(graph_bytes(), threads=1)


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def opens(provider: str) -> bool:
    try:
        return Session(graph_bytes(), provider=provider).active_providers[0] == PROVIDERS[provider]
    except ToolkitError:
        return False


def test_logits_and_probabilities_are_those_of_the_graph(session: Session) -> None:
    logits, probabilities = session.run(FEED).values()
    expected = expected_logits(IMAGES)
    exponentials = np.exp(expected - expected.max(-1, keepdims=True))
    assert logits.dtype == probabilities.dtype == np.float32
    assert logits.shape == probabilities.shape == (len(IMAGES), len(LABELS))
    assert np.abs(logits - expected).max() <= rounding(IMAGES)
    # softmax moves half as far as its logits at most, and rounds a few times itself
    allowed = rounding(IMAGES) / 2 + 8 * np.finfo(np.float32).eps
    assert np.abs(probabilities - exponentials / exponentials.sum(-1, keepdims=True)).max() <= allowed


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_of_any_size_give_what_one_batch_gives(session: Session, batch_size: int) -> None:
    together, apart = session.run(FEED), session.run_batches(FEED, batch_size)
    for one, other in zip(together.values(), apart.values(), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 2 * rounding(IMAGES)


def test_a_file_and_its_bytes_give_the_same(session: Session, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph_bytes())
    from_file = Session(tmp_path / "model.onnx", threads=1)
    assert_same(from_file.run(FEED), session.run(FEED))


def test_a_session_says_what_it_runs_on(session: Session) -> None:
    assert (session.provider, session.threads) == ("cpu", 1)
    assert session.active_providers == ["CPUExecutionProvider"]
    assert session.metadata == METADATA
    assert Session(graph_bytes()).threads == usable_cores()


def test_a_newer_opset_than_the_runtime_has_is_named() -> None:
    model = onnx.load_from_string(graph_bytes())
    model.opset_import[0].version = 99
    with pytest.raises(ToolkitError, match=f"opset 99, but onnxruntime {ort.__version__} runs up to") as caught:
        Session(model.SerializeToString())
    assert "upgrade onnxruntime" in caught.value.fix


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((1, 3, 0, SIDE), np.float32),
        np.zeros((0, 3, SIDE, SIDE), np.float32),
        np.zeros((1, 3, SIDE, SIDE), np.float64),
        np.zeros((1, SIDE, SIDE, 3), np.uint8),
        np.zeros((3, SIDE, SIDE), np.float32),
        np.zeros((1, 3, SIDE, SIDE + 1), np.float32),
    ],
)
def test_what_the_graph_does_not_take_is_refused(session: Session, inputs: np.ndarray) -> None:
    with pytest.raises(ToolkitError, match=r"pixel_values must be float32 \[batch, 3, 4, 4\]") as caught:
        session.run({"pixel_values": inputs})
    assert f"not {inputs.dtype} {list(inputs.shape)}" in caught.value.what


@pytest.mark.parametrize(
    ("feed", "what"),
    [
        ({}, "takes pixel_values too"),
        ({"image": IMAGES}, "takes no image"),
        (FEED | {"input_ids": IMAGES}, "takes no input_ids"),
    ],
)
def test_other_inputs_than_the_graphs_are_named(session: Session, feed: dict[str, np.ndarray], what: str) -> None:
    with pytest.raises(ToolkitError, match=what) as caught:
        session.run(feed)
    assert caught.value.fix == "give pixel_values"


def test_a_session_says_what_it_takes(session: Session) -> None:
    assert [str(spec) for spec in session.inputs.values()] == ["pixel_values: float32 [batch, 3, 4, 4]"]


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ToolkitError, match="no provider 'rocm'") as caught:
        Session(graph_bytes(), provider="rocm")
    assert all(name in caught.value.fix for name in PROVIDERS)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_load_is_refused_and_not_replaced(
    provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if opens(provider):
        pytest.skip(f"{provider} really loads here")
    with pytest.raises(ToolkitError, match=PROVIDERS[provider]) as caught:
        Session(graph_bytes(), provider=provider)
    assert "--provider cpu" in caught.value.fix
    assert capfd.readouterr().out == ""


def test_loadable_providers_are_those_that_open_a_session() -> None:
    outcome = loadable_providers()
    assert set(outcome) == set(PROVIDERS)
    assert outcome["cpu"] is None
    assert {name: reason is None for name, reason in outcome.items()} == {name: opens(name) for name in PROVIDERS}
    for reason in filter(None, outcome.values()):
        assert reason.strip()
        assert "\n" not in reason


@pytest.mark.parametrize("content", [b"", b"no graph at all", graph_bytes()[:100]], ids=["empty", "text", "cut"])
def test_a_damaged_graph_is_the_users_to_mend(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ToolkitError, match="can't open the graph") as caught:
        Session(path)
    assert caught.value.where == str(path)
    with pytest.raises(ToolkitError, match="can't open the graph"):
        Session(content)


def test_a_graph_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="can't open the graph"):
        Session(tmp_path / "missing.onnx")


@pytest.mark.parametrize("offset", [0, 4096])
def test_external_data_comes_from_memory_and_may_go_afterwards(session: Session, offset: int) -> None:
    graph, data = outsourced("weight.bin", offset=offset)
    content = bytearray(data)
    other = Session(graph, threads=1, external_data={"weight.bin": memoryview(content)})
    content[:] = bytes(len(content))
    assert_same(other.run(FEED), session.run(FEED))


def test_bytes_never_have_a_file_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would take the file from the working directory."""
    graph, data = outsourced("weight.bin")
    (tmp_path / "weight.bin").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    for given in (None, {}, {"other.bin": data}):
        with pytest.raises(ToolkitError, match=r"external data 'weight\.bin' was not given"):
            Session(graph, external_data=given)


@pytest.mark.parametrize("content", [b"", b"short"])
def test_external_data_that_is_too_short_is_refused(content: bytes) -> None:
    with pytest.raises(ToolkitError, match="can't open the graph"):
        Session(outsourced("weight.bin")[0], external_data={"weight.bin": content})


def test_a_file_finds_its_data_beside_it(session: Session, tmp_path: Path) -> None:
    graph, data = outsourced("weight.bin")
    (tmp_path / "model.onnx").write_bytes(graph)
    (tmp_path / "weight.bin").write_bytes(data)
    other = Session(tmp_path / "model.onnx", threads=1)
    assert_same(other.run(FEED), session.run(FEED))


def test_onnxruntimes_own_format_is_not_taken(tmp_path: Path) -> None:
    """It could point to files too, and nothing here reads it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(graph_bytes(), options, providers=["CPUExecutionProvider"])
    for model in (tmp_path / "model.ort", (tmp_path / "model.ort").read_bytes()):
        with pytest.raises(ToolkitError, match="can't open the graph"):
            Session(model)


def test_several_providers_are_those_of_the_processor() -> None:
    assert several_providers("cpu, openvino,cpu") == ["cpu", "openvino"]
    assert several_providers("cuda") == ["cuda"]
    for asked, says in (
        ("cpu,opnvino", "no provider 'opnvino'"),
        ("opnvino", "no provider 'opnvino'"),
        ("", "no provider ''"),
        ("cpu,cuda", "cuda runs alone"),
    ):
        with pytest.raises(ToolkitError, match=says) as refused:
            several_providers(asked)
        assert "openvino" in refused.value.fix


def test_a_bundle_that_a_provider_can_not_run_is_said_in_one_line() -> None:
    assert runnable(["fp32", "bf16", "int8"], "cpu") == ["fp32", "int8"]
    with pytest.raises(ToolkitError, match="no provider 'gpu'"):
        runnable(["fp32"], "gpu")
    with pytest.raises(ToolkitError, match="holds bf16 alone, which CPUExecutionProvider can't run"):
        runnable(["bf16"], "cpu")
    with pytest.raises(ToolkitError, match="holds no graph"):
        runnable([], "cpu")
