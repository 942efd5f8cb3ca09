"""What is read is a regular file of a known size; a pipe, a device or a sparse giant ends in an error at once."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from toolkit.data.check import check_data
from toolkit.data.formats import list_data
from toolkit.data.manifest import list_manifest
from toolkit.data.shard_index import FilePart, index_of, read_index
from toolkit.data.shards import list_shards
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.recipe.data import ColumnsConfig, DataConfig
from toolkit.recipe.reading import load_recipe
from toolkit.regular_files import LONGEST_LINE, bounded_lines, open_regular, read_regular, read_settings
from toolkit.runtime.decode import MAX_BYTES, UnreadableImageError, decode
from toolkit.runtime.image_files import images_below, is_image
from toolkit.runtime.manifest import MANIFEST, read_manifest

GIANT = 40 << 30


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def zeros(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def sparse(path: Path, start: bytes = b"") -> Path:
    path.write_bytes(start)
    os.truncate(path, GIANT)
    return path


ODD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe": (pipe, "a pipe, not a regular file"),
    "device": (zeros, "a device, not a regular file"),
    "folder": (folder, "Is a directory"),
    "giant": (sparse, "42,949,672,960 bytes, over the limit of"),
}
odd = pytest.mark.parametrize(("make", "reason"), ODD.values(), ids=ODD)


@odd
def test_what_is_no_regular_file_of_some_size_is_not_read(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=reason):
        read_settings(make(tmp_path / "file"))


@odd
def test_as_an_image_it_is_unreadable(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path / "photo.png")
    with pytest.raises(UnreadableImageError, match=reason):
        decode(path)


@odd
def test_in_a_manifest_it_is_an_unreadable_image_among_the_others(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "odd.png")
    rows = ["path,label", "odd.png,a"]
    for number, label in enumerate("aabb"):
        Image.new("RGB", (8, 8), (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    found = check_data(DataConfig(path=tmp_path / "m.csv"))
    assert [Path(entry["path"]).name for entry in found["unreadable"]] == ["odd.png"]
    assert reason in found["unreadable"][0]["reason"]


@odd
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
def test_as_a_manifest_it_is_one_line(make: Callable[[Path], Path], reason: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="can't read the manifest: "):
        list_manifest(make(tmp_path / name), ColumnsConfig())


def test_a_manifest_with_a_giant_end_is_one_line(tmp_path: Path) -> None:
    path = sparse(tmp_path / "m.csv", b"path,label\na.png,x\n")
    with pytest.raises(ToolkitError, match=f"line 3 has more than {LONGEST_LINE:,} characters"):
        list_manifest(path, ColumnsConfig())


@odd
def test_as_a_recipe_it_is_one_line(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=f"can't read the recipe: {reason}"):
        load_recipe(make(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("make", [pipe, zeros, sparse], ids=["pipe", "device", "giant"])
def test_as_a_shard_or_its_index_it_is_one_line(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError):
        list_shards(make(tmp_path / "a.tar"))
    shard = tmp_path / "b.tar"
    shard.write_bytes(bytes(10240))
    make(index_of(shard))
    with pytest.raises(ToolkitError, match="damaged index"):
        read_index(shard)


@pytest.mark.parametrize("make", [pipe, sparse], ids=["pipe", "giant"])
def test_as_a_bundles_manifest_it_is_one_line(make: Callable[[Path], Path], tmp_path: Path) -> None:
    make(tmp_path / MANIFEST)
    with pytest.raises(ToolkitError):
        read_manifest(tmp_path)


def test_a_part_that_says_it_is_a_giant_is_not_read(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.tar")
    with pytest.raises(OSError, match="over the limit of"):
        FilePart(path, 0, GIANT).read()


def test_an_about_file_of_a_data_set_that_is_a_giant_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "0.png")
    sparse(tmp_path / "dataset.json")
    with pytest.raises(ToolkitError, match="over the limit of"):
        list_data(DataConfig(path=tmp_path))


def test_pipes_and_sockets_in_a_folder_are_left_out_and_not_opened(tmp_path: Path) -> None:
    pipe(tmp_path / "a.png")
    pipe(tmp_path / "without")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "b.png"))
    found = images_below(tmp_path)
    assert found.names == []
    assert found.left_out == {"no file": 2, "no suffix, no image": 1}


def test_a_giant_without_a_suffix_is_no_image(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "WEBP")
    assert not is_image(sparse(tmp_path / "giant", stream.getvalue()))
    assert MAX_BYTES < GIANT


def test_hashing_a_pipe_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a pipe"):
        sha256_of(pipe(tmp_path / "pipe"))


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, over the limit of 4"):
        read_regular(path, 4)
    with open_regular(path) as file:
        assert file.read() == b"12345"


def test_lines_keep_their_ends_and_have_a_longest(tmp_path: Path) -> None:
    assert list(bounded_lines(io.StringIO("ab\ncd"), 3)) == ["ab\n", "cd"]
    with pytest.raises(ValueError, match="line 2 has more than 3 characters"):
        list(bounded_lines(io.StringIO("a\nabcd\n"), 3))


def test_a_recipe_is_still_a_recipe(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    recipe = make_recipe()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
