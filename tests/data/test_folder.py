from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.data.folder import UNSPLIT, check_classes, list_folder
from toolkit.errors import ToolkitError
from toolkit.runtime.decode import EXTENSIONS


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_split_folders_are_found_under_their_usual_names(tmp_path: Path, train: str, validation: str) -> None:
    names = [f"{split}/{cls}/0.png" for split in (train, validation, "test") for cls in "ab"]
    listing = list_folder(touch(tmp_path, *names))
    assert listing.classes == ["a", "b"]
    assert {split: list(by_class) for split, by_class in listing.files.items()} == {
        split: ["a", "b"] for split in ("train", "validation", "test")
    }
    assert sorted(path for by in listing.files.values() for paths in by.values() for path in paths) == sorted(
        tmp_path / name for name in names
    )


def test_class_folders_alone_are_one_unsplit_set(tmp_path: Path) -> None:
    listing = list_folder(touch(tmp_path, "b/1.png", "a/2.png", "a/1.png", "dataset.json"))
    assert listing.files == {UNSPLIT: {"a": [tmp_path / "a/1.png", tmp_path / "a/2.png"], "b": [tmp_path / "b/1.png"]}}


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_image_files_are_known_by_their_extension_in_any_case_at_any_depth(tmp_path: Path, extension: str) -> None:
    images = [f"a/one{extension}", f"a/deep/er/two{extension.upper()}"]
    touch(tmp_path, *images, "a/notes.txt", f"a/.hidden{extension}", "a/none", f"a/folder{extension}/", ".git/x.png")
    assert list_folder(tmp_path).files == {UNSPLIT: {"a": sorted(tmp_path / name for name in images)}}


@pytest.mark.parametrize(
    ("names", "at", "message"),
    [
        ([], "missing", "no such data folder"),
        (["file"], "file", "the data path is a file"),
        (["empty/"], "empty", "no class folders"),
        (["flat/0.png", "flat/1.png"], "flat", "no class folders"),
        (["splits/train/", "splits/test/"], "splits", "no class folders"),
        (["two/val/a/0.png", "two/valid/a/0.png"], "two", "two folders for one split: val and valid"),
    ],
)
def test_what_is_no_image_folder_is_refused(tmp_path: Path, names: list[str], at: str, message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ToolkitError, match=message) as caught:
        list_folder(tmp_path / at)
    assert caught.value.where == str(tmp_path / at)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/0.png"], "needs two classes, the folder holds 1: a"),
        (["a/0.png", "b/"], "the folder has classes without an image: b"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png"], "split 'test' lacks classes that 'train' has: b"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png", "test/B/0.png"], "split 'train' lacks classes .* B"),
        (["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/x.txt"], "split 'validation' has classes .* b"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    listing = list_folder(touch(tmp_path, *names))
    with pytest.raises(ToolkitError, match=message):
        check_classes(listing)


def test_classes_that_fit_pass(tmp_path: Path) -> None:
    listing = list_folder(touch(tmp_path, *(f"{split}/{cls}/0.png" for split in ("train", "test") for cls in "ab")))
    check_classes(listing)
    assert listing.classes == ["a", "b"]
