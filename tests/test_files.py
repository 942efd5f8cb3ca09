from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.files import refuse_existing, sha256_of, staged_folder, write_bytes, write_json

MARKER = "manifest.json"


def folder_of_the_kind(path: Path, content: str = "old") -> Path:
    path.mkdir()
    (path / MARKER).write_text(content)
    return path


@pytest.mark.parametrize("size", [0, 1, 100_003])
def test_the_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_reader_that_has_the_file_open_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    with path.open("rb") as reader:
        write_bytes(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "text is not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_back_as_it_was_in_the_order_given(tmp_path: Path) -> None:
    content = {"z": [1, 2.5, None, True], "a": {"label": "grün"}, "m": 1 / 3}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == list(content.items())
    assert "grün" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_numbers_that_json_does_not_have(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "file.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": value})
    assert json.loads((tmp_path / "file.json").read_text()) == {"loss": 1.0}


def test_a_staged_folder_appears_whole_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with staged_folder(target, what="bundle", marker=MARKER) as stage:
        (stage / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def build(target: Path, steps: Callable[[Path], object], *, replace: bool = False) -> None:
    with staged_folder(target, what="bundle", marker=MARKER, replace=replace) as stage:
        steps(stage)


def half_a_folder(stage: Path) -> None:
    (stage / MARKER).write_text("half")
    raise ZeroDivisionError


@pytest.mark.parametrize("there", [False, True], ids=["free", "replacing"])
def test_an_error_while_building_leaves_everything_as_it_was(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "target"
    if there:
        folder_of_the_kind(target)
    with pytest.raises(ZeroDivisionError):
        build(target, half_a_folder, replace=there)
    assert list(tmp_path.iterdir()) == [target] * there
    assert not there or (target / MARKER).read_text() == "old"


def test_an_error_while_renaming_leaves_the_old_folder_in_its_place(tmp_path: Path) -> None:
    target = folder_of_the_kind(tmp_path / "target")
    with pytest.raises(FileNotFoundError):
        build(target, shutil.rmtree, replace=True)
    assert list(tmp_path.iterdir()) == [target]
    assert (target / MARKER).read_text() == "old"


def test_replacing_leaves_the_new_folder_alone(tmp_path: Path) -> None:
    target = folder_of_the_kind(tmp_path / "target")
    (target / "extra").write_text("of the old one")
    with staged_folder(target, what="bundle", marker=MARKER, replace=True) as stage:
        (stage / MARKER).write_text("new")
    assert list(tmp_path.iterdir()) == [target]
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [(MARKER, "new")]


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    with staged_folder(tmp_path, what="bundle", marker=MARKER) as stage:
        (stage / "file").write_text("content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_something_of_another_kind_is_never_replaced(tmp_path: Path, kind: str, replace: bool) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    precious = target / "thesis.tex" if kind == "folder" else target
    precious.write_text("precious")
    with pytest.raises(ToolkitError, match="something that is no bundle"):
        build(target, half_a_folder, replace=replace)
    assert precious.read_text() == "precious"


def test_one_of_its_kind_is_replaced_only_if_asked(tmp_path: Path) -> None:
    target = folder_of_the_kind(tmp_path / "target")
    with pytest.raises(ToolkitError, match="--force") as caught:
        refuse_existing(target, what="bundle", marker=MARKER)
    refuse_existing(target, what="bundle", marker=MARKER, replace=True)
    assert caught.value.where == str(target)


def test_of_two_that_build_the_same_folder_one_wins_and_the_other_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def build(text: str) -> None:
        with staged_folder(target, what="bundle", marker=MARKER) as stage:
            (stage / MARKER).write_text(text)
            if text == "slow":
                build("fast")

    with pytest.raises(ToolkitError, match="a bundle is there already"):
        build("slow")
    assert (target / MARKER).read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]
