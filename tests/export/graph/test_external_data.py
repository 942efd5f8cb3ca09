"""Graphs as one file or two: the same graph, the same bytes each time, the caller's model as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import uses_external_data

from export.graph.external_data import MAX_PROTOBUF_BYTES, PAGE, SMALLEST_OUTSIDE, read_shell, save_graph
from export.graph.subgraph import network_part, open_part
from export.graph.tensor_names import LOGITS
from toolkit.runtime.onnx_file import external_files, files_of_inner_tensors
from toolkit.runtime.session import Session

SMALL = 10_000


@pytest.fixture
def model(finished_bundle: Path) -> onnx.ModelProto:
    return onnx.load(finished_bundle / "model.onnx")


def test_a_graph_that_fits_is_one_file(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(tmp_path / "model.onnx") == model


def test_the_file_is_what_protobuf_writes(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("largest", [SMALL, MAX_PROTOBUF_BYTES])
def test_a_shell_is_the_graph_with_its_weights_on_disk(largest: int, model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_graph(model, path, largest=largest)
    shell, weights = read_shell(path), {tensor.name: tensor for tensor in model.graph.initializer}
    assert shell.ByteSize() < model.ByteSize()
    outside = [tensor for tensor in shell.graph.initializer if uses_external_data(tensor)]
    assert {tensor.name for tensor in outside} == {
        name for name, tensor in weights.items() if len(tensor.raw_data) >= SMALLEST_OUTSIDE
    }
    session, feed = Session(path, threads=1), {"pixel_values": np.ones((2, 3, 32, 32), np.float32)}
    ours, theirs = (open_part(network_part(each, [LOGITS]), session).compute([LOGITS], feed) for each in (shell, model))
    assert np.array_equal(ours[0], theirs[0])
    onnx.load_external_data_for_model(shell, str(tmp_path))
    for tensor in outside:
        assert tensor.raw_data == weights[tensor.name].raw_data


def test_the_largest_size_is_met_to_the_byte(model: onnx.ModelProto, tmp_path: Path) -> None:
    size = model.ByteSize()
    save_graph(model, tmp_path / "model.onnx", largest=size)
    assert len(list(tmp_path.iterdir())) == 1
    save_graph(model, tmp_path / "model.onnx", largest=size - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_a_graph_too_large_for_one_file_is_the_same_in_two(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.initializer[0].doc_string = "kept"
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    loaded = onnx.load(tmp_path / "model.onnx")
    for tensor in loaded.graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        tensor.ClearField("data_location")  # loading writes the default out
    assert loaded == model
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    content = (tmp_path / "model.onnx").read_bytes()
    assert external_files(content) == {"model.onnx.data"}
    assert files_of_inner_tensors(content) == set()


def test_small_tensors_stay_inside_and_large_ones_start_at_pages(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    shell = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    outside = {tensor.name: tensor for tensor in shell.graph.initializer if uses_external_data(tensor)}
    assert set(outside) == {name for name, size in sizes.items() if size >= SMALLEST_OUTSIDE}
    for name, tensor in outside.items():
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert int(entries["offset"]) % PAGE == 0
        assert int(entries["length"]) == sizes[name]
        assert not tensor.HasField("raw_data")


def test_one_file_and_two_give_the_same_logits(finished_bundle: Path, model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    images = np.random.default_rng(0).integers(0, 256, (3, 45, 60, 3), dtype=np.uint8)
    one, two = Session(finished_bundle / "model.onnx", threads=1), Session(tmp_path / "model.onnx", threads=1)
    memory = Session(
        (tmp_path / "model.onnx").read_bytes(),
        threads=1,
        external_data={"model.onnx.data": (tmp_path / "model.onnx.data").read_bytes()},
    )
    for session in (two, memory):
        expected, got = one.run({"image": images}), session.run({"image": images})
        assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert two.metadata == memory.metadata == one.metadata


@pytest.mark.parametrize("largest", [SMALL, 2**31 - 1])
def test_the_callers_model_stays_as_it_is_and_gives_the_same_bytes_again(
    largest: int, model: onnx.ModelProto, tmp_path: Path
) -> None:
    before = model.SerializeToString(deterministic=True)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        save_graph(model, folder / "model.onnx", largest=largest)
        assert model.SerializeToString(deterministic=True) == before
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert written[0] == written[1]


def test_saving_again_leaves_nothing_of_the_file_before(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    size = (tmp_path / "model.onnx.data").stat().st_size
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    assert (tmp_path / "model.onnx.data").stat().st_size == size
    save_graph(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_whose_data_is_elsewhere_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "model.onnx", largest=SMALL)
    shell = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    with pytest.raises(ValueError, match="not in memory"):
        save_graph(shell, tmp_path / "again.onnx")
