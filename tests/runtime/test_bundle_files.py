"""Files beside those that the manifest lists: external data, links, strangers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from tiny_graph import outsourced

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import MANIFEST, Bundle
from toolkit.runtime.verify import verify


def test_a_link_is_no_file_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "labels.json"
    (bundle / "labels.json").rename(outside)
    (bundle / "labels.json").symlink_to(outside)
    assert Bundle(bundle).differences() == ["labels.json is a link"]
    with pytest.raises(ToolkitError, match="lacks the file"):
        Bundle(bundle).read("labels.json")


def put_graph(path: Path, location: str, *, data_name: str | None = None) -> None:
    """Replace the graph by one that keeps its weight at a location, and list all with fresh hashes."""
    graph, data = outsourced(location)
    (path / "model.onnx").write_bytes(graph)
    if data_name is not None:
        (path / data_name).parent.mkdir(exist_ok=True)
        (path / data_name).write_bytes(data)
    Bundle(path).update_manifest()


@pytest.mark.parametrize("name", ["model.onnx.data", "weights/model.bin"])
def test_external_data_gives_the_same_as_one_file(name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Bundle(bundle).golden().inputs
    expected = Bundle(bundle).session(threads=1).run(feed)
    put_graph(bundle, name, data_name=name)
    # what lies below the working directory under the same name is never looked at
    elsewhere = bundle.parent / "elsewhere"
    (elsewhere / name).parent.mkdir(parents=True)
    (elsewhere / name).write_bytes(bytes((bundle / name).stat().st_size))
    monkeypatch.chdir(elsewhere)
    again = Bundle(bundle).session(threads=1).run(feed)
    assert all(np.array_equal(expected[name], again[name]) for name in expected)
    assert verify(bundle, threads=1)["passed"]


def test_a_session_keeps_its_weights_when_the_data_file_is_gone(bundle: Path) -> None:
    put_graph(bundle, "model.onnx.data", data_name="model.onnx.data")
    opened = Bundle(bundle)
    feed, session = opened.golden().inputs, opened.session(threads=1)
    before = session.run(feed)
    (bundle / "model.onnx.data").write_bytes(b"")
    after = session.run(feed)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/etc/passwd", "leads out"),
        ("../outside.bin", "leads out"),
        ("golden/../../outside.bin", "leads out"),
        ("golden/../weight.bin", "leads out"),
        ("..\\outside.bin", "leads out"),
        ("C:\\outside.bin", "leads out"),
        ("C:outside.bin", "leads out"),
        ("./weight.bin", "no plain relative path"),
        ("golden//weight.bin", "no plain relative path"),
        ("", "no plain relative path"),
        (".", "no plain relative path"),
        ("*/_ORT_MEM_ADDR_/*", "no plain relative path"),
        ("weight\n.bin", "no plain relative path"),
        ("manifest.json", "can't be listed"),
        ("elsewhere.bin", "not in the manifest"),
    ],
)
def test_a_graph_that_points_to_no_listed_file_is_refused(location: str, says: str, bundle: Path) -> None:
    _, data = outsourced(location)
    (bundle.parent / "outside.bin").write_bytes(data)  # ONNX Runtime itself would read it
    put_graph(bundle, location, data_name="weight.bin")
    with pytest.raises(ToolkitError, match=says) as caught:
        Bundle(bundle).session()
    assert repr(location) in caught.value.what
    assert caught.value.where == str(bundle / "model.onnx")
    report = verify(bundle)
    assert not report["passed"]
    assert report["problems"] == [caught.value.what]


def test_a_graph_of_subgraphs_with_external_data_is_refused(bundle: Path) -> None:
    """ONNX Runtime takes such data from the disk even where the file's content was given from memory."""
    graph, data = outsourced("weight.bin")
    model = ModelProto.FromString(graph)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    model.graph.sparse_initializer.add().values.CopyFrom(weight)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    (bundle / "weight.bin").write_bytes(data)
    Bundle(bundle).update_manifest()
    with pytest.raises(ToolkitError, match="anything but an initializer of the main graph"):
        Bundle(bundle).session()


def data_file_as_link(bundle: Path) -> str:
    (bundle / "weight.bin").rename(bundle.parent / "weight.bin")
    (bundle / "weight.bin").symlink_to(bundle.parent / "weight.bin")
    return "weight.bin is a link"


def folder_as_link(bundle: Path) -> str:
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")
    return "golden is a link"


def unlisted_link(bundle: Path) -> str:
    (bundle / "golden" / "passwd").symlink_to("/etc/passwd")
    return "golden/passwd is a link"


def broken_link(bundle: Path) -> str:
    (bundle / "old").symlink_to("nowhere")
    return "old is a link"


def unlisted_file(bundle: Path) -> str:
    (bundle / "golden" / ".hidden").write_bytes(b"")
    return "golden/.hidden is not in the manifest"


def pipe(bundle: Path) -> str:
    os.mkfifo(bundle / "pipe")
    return "pipe is no plain file"


@pytest.mark.parametrize("add", [data_file_as_link, folder_as_link, unlisted_link, broken_link, unlisted_file, pipe])
def test_links_and_unknown_files_are_refused_by_name(add: Callable[[Path], str], bundle: Path) -> None:
    put_graph(bundle, "weight.bin", data_name="weight.bin")
    Bundle(bundle).session(threads=1)
    sentence = add(bundle)
    with pytest.raises(ToolkitError, match=sentence) as caught:
        Bundle(bundle).session()
    assert caught.value.where == str(bundle)
    assert sentence in verify(bundle)["problems"]


@pytest.mark.parametrize("add", [unlisted_link, broken_link, pipe])
def test_no_manifest_is_written_over_what_it_can_not_list(add: Callable[[Path], str], bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    name, _, fault = add(bundle).partition(" ")
    with pytest.raises(ToolkitError, match=f"'{name}': it {fault}"):
        Bundle(bundle).update_manifest()
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_bundle_behind_a_link_is_the_users_choice(bundle: Path) -> None:
    (bundle.parent / "current").symlink_to(bundle)
    assert verify(bundle.parent / "current", threads=1)["passed"]
