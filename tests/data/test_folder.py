from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.data.folder import list_folder
from toolkit.data.formats import list_data
from toolkit.data.listing import SPLITS, UNSPLIT, check_listing
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig


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


IN_CLASSES = [f"{cls}/{number}.png" for cls in "ab" for number in range(2)]


def splits_of(root: Path) -> dict[str, set[str]]:
    """Classes by split."""
    found: dict[str, set[str]] = {}
    for item in list_data(DataConfig(path=root)).items:
        found.setdefault(item.split, set()).add(item.label)
    return found


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Train", "VAL", "Test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "dev", "eval"),
        ("train_set", "valid-set", "test_set"),
        ("train2017", "val2017", "Evaluation"),
        ("trainset", "devset", "testset"),
        ("train images", "validation_data", "test-images"),
    ],
)
def test_split_folders_are_known_in_any_case_and_by_the_usual_words(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    touch(tmp_path, *(f"{split}/{name}" for split in (train, validation, test) for name in IN_CLASSES))
    assert splits_of(tmp_path) == {split: {"a", "b"} for split in SPLITS}


@pytest.mark.parametrize("names", [["train", "bus"], ["bus", "Test", "car"], ["dev", "prod"], ["data", "images"]])
def test_among_folders_of_images_one_called_like_a_split_is_a_class(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *(f"{name}/0.png" for name in names))
    assert splits_of(tmp_path) == {UNSPLIT: set(names)}


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["train/a/0.png", "train/b/0.png", "holdout/a/0.png", "holdout/b/1.png"], r"no split: holdout \(2 images\)"),
        (["Train/a/0.png", "Train/b/0.png", "Bus/0.png"], r"beside the splits \(Train\) that are no split: Bus"),
        ([f"{name}/a/0.png" for name in ("train", "s1", "s2", "s3", "s4")], r"s1 .*, s2 .*, s3 .* and 1 more"),
        (["train/a/0.png", "train/b/0.png", "test/0.png", "test/1.png"], "'test', test, holds 2 images, but none in a"),
        (["train/a/0.png", "train/b/0.png", "val/"], "'validation', val, holds no images"),
        (["train/a/0.png", "train/b/0.png", "val/a/"], "'validation', val, holds no images"),
        (["train/0.png", "test/0.png"], "split folders hold no class folders: test, train"),
        (["train/0.png", "test/0.png", "bus/0.png"], "split folders hold no class folders: test, train"),
        (["train/0.png"], "split folders hold no class folders: train"),
        (["Train/a/0.png", "train/a/0.png"], "two folders for one split: Train and train"),
        (["test/a/0.png", "eval/a/0.png", "train/a/0.png"], "two folders for one split: eval and test"),
        (["bottle/train/0.png", "bottle/test/0.png", "cable/train/0.png"], "read as one heap: bottle, cable"),
        ([f"c{n}/Train/good/0.png" for n in range(5)], "read as one heap: c0, c1, c2 and 2 more"),
        (["train/a/train/0.png", "train/b/0.png"], "read as one heap: train/a"),
        (["nan/0.png", "b/0.png"], "no label in folder name .*/nan"),
        (["train/ /0.png", "train/b/0.png"], "no label in folder name .*/train/ "),
    ],
)  # fmt: skip
def test_folders_that_can_be_read_in_two_ways_are_refused_by_name(tmp_path: Path, names: list[str], what: str) -> None:
    with pytest.raises(ToolkitError, match=what) as caught:
        list_data(DataConfig(path=touch(tmp_path, *names)))
    assert caught.value.where.startswith(str(tmp_path))
    assert caught.value.fix


@pytest.mark.parametrize("deeper", ["chest_xray", "x/y"])
def test_splits_that_lie_deeper_say_which_path_to_give(tmp_path: Path, deeper: str) -> None:
    touch(tmp_path, *(f"{deeper}/{split}/{name}" for split in ("train", "test") for name in IN_CLASSES))
    touch(tmp_path, "__MACOSX/train/a/0.png", "docs/readme.txt")
    with pytest.raises(ToolkitError, match=f"the splits lie deeper, in {deeper}") as caught:
        list_data(DataConfig(path=tmp_path))
    assert caught.value.fix.endswith(str(tmp_path / deeper))
    assert splits_of(tmp_path / deeper) == {"train": {"a", "b"}, "test": {"a", "b"}}


def test_a_subclass_called_like_a_split_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "vehicles/train/0.png", "vehicles/car/0.png", "animals/cat/0.png")
    assert splits_of(tmp_path) == {UNSPLIT: {"vehicles", "animals"}}


def test_images_in_no_class_and_other_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in IN_CLASSES))
    touch(tmp_path, "loose.png", "train/loose.png", "train/a/notes.txt", "labels.csv", "docs/x.pdf", "dataset.json.bak")
    touch(tmp_path, "test/@eaDir/a.png/thumb.png", "train/a/@eaDir/0.png", ".git/x", "train/a/._0.png")
    (tmp_path / "dataset.json").write_text("{}")
    listing = list_data(DataConfig(path=tmp_path))
    assert len(listing.items) == 8
    counted = {"in no class folder": 2, ".txt": 1, ".csv": 1, ".pdf": 1, ".bak": 1, "@eaDir": 2, "hidden": 2}
    assert listing.left_out == counted


def test_classes_that_differ_by_unicode_form_are_one(tmp_path: Path) -> None:
    touch(tmp_path, "train/caf\u00e9/0.png", "test/cafe\u0301/0.png", "train/b/0.png", "test/b/0.png")
    touch(tmp_path, "train/cafe\u0301/1.png")
    listing = list_data(DataConfig(path=tmp_path, classes=["cafe\u0301", "b"]))
    check_listing(listing)
    assert listing.classes == ["caf\u00e9", "b"]
    assert listing.counts() == {"train": {"caf\u00e9": 2, "b": 1}, "test": {"caf\u00e9": 1, "b": 1}}


ORDER = """
import json, sys
from pathlib import Path
from toolkit.recipe.data import DataConfig
from toolkit.data.formats import list_data
listings = [list_data(DataConfig(path=Path(path))) for path in sys.argv[1:]]
print(json.dumps([[each.classes, [item.name for item in each.items], each.left_out] for each in listings]))
"""


def test_a_listing_is_the_same_whatever_the_seed_of_hashes(tmp_path: Path) -> None:
    labels = ["1", "01", "001", "10", "9", "a", "A", "\u00e9", "9" * 60]
    touch(tmp_path, *(f"folder/{label}/{number}.png" for label in labels for number in range(2)), "folder/a/x.txt")
    rows = [f"{label}-{number}.png,{label}" for label in labels for number in range(2)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]))
    printed = set()
    for seed in ("0", "1", "2", "3", "4"):
        command = [sys.executable, "-c", ORDER, str(tmp_path / "folder"), str(tmp_path / "m.csv")]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        printed.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    (only,) = printed
    ordered = ["001", "01", "1", "9", "10", "9" * 60, "A", "a", "\u00e9"]
    assert [classes for classes, _, _ in json.loads(only)] == [ordered, ordered]
