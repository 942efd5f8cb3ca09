from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.data.folder import list_folder
from toolkit.data.formats import list_data
from toolkit.data.listing import SPLITS, UNSPLIT, check_listing
from toolkit.errors import ToolkitError


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
    found = list_folder(touch(tmp_path, *names))
    items, classes = found.items, found.classes
    assert classes == ["a", "b"]
    assert [(item.split, item.label) for item in items] == [(split, cls) for split in SPLITS for cls in "ab"]
    assert [item.path for item in items] == [tmp_path / name for name in names]


def test_class_folders_alone_are_one_unsplit_set(tmp_path: Path) -> None:
    items = list_folder(touch(tmp_path, "b/1.png", "a/2.png", "a/1.png", "dataset.json")).items
    assert [(item.split, item.path) for item in items] == [
        (UNSPLIT, tmp_path / name) for name in ("a/1.png", "a/2.png", "b/1.png")
    ]


def test_numbers_stand_in_the_order_of_their_values(tmp_path: Path) -> None:
    classes = list_folder(touch(tmp_path, *(f"{name}/0.png" for name in ("10", "9", "b", "a", "1")))).classes
    assert classes == ["1", "9", "10", "a", "b"]


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
        list_data(DataConfig(path=tmp_path / at))
    assert caught.value.where == str(tmp_path / at)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/0.png"], "needs two classes, here is 1: a"),
        (["a/0.png", "b/"], "the data has no image of: b"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png"], "split 'test' has no image of: b"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png", "test/B/0.png"], "split 'train' has no image of: B"),
        (["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/x.txt"], "split 'validation' has no image of: b"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    listing = list_data(DataConfig(path=touch(tmp_path, *names)))
    with pytest.raises(ToolkitError, match=message):
        check_listing(listing)


def test_classes_that_fit_pass(tmp_path: Path) -> None:
    names = [f"{split}/{cls}/0.png" for split in ("train", "test") for cls in "ab"]
    listing = list_data(DataConfig(path=touch(tmp_path, *names)))
    check_listing(listing)
    assert listing.counts() == {split: {"a": 1, "b": 1} for split in ("train", "test")}
