from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from toolkit.data.source import DataSource, open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

CLASSES = ["blue", "green", "red"]


def files_of(source: DataSource, *splits: str) -> set[Path]:
    return {example.path for split in splits for example in source.splits[split]}


def counts_below(root: Path) -> dict[str, int]:
    return {name: len(list((root / name).iterdir())) for name in CLASSES}


@pytest.fixture
def data(color_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_data, tmp_path / "data"))


@pytest.fixture
def unsplit(color_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_data / "train", tmp_path / "unsplit"))


def test_split_folders_are_taken_as_they_are(color_data: Path) -> None:
    source = open_data(DataConfig(path=color_data))
    assert source.classes == CLASSES
    assert list(source.splits) == ["train", "validation", "test"]
    folders = {"train": "train", "validation": "val", "test": "test"}
    assert source.counts() == {split: counts_below(color_data / name) for split, name in folders.items()}
    for split, examples in source.splits.items():
        for example in examples:
            assert example.path.parent == color_data / folders[split] / CLASSES[example.label]
    assert (source.skipped, source.duplicates, source.about) == ([], [], {})


def test_an_unsplit_folder_is_divided_with_each_class_in_each_split(unsplit: Path) -> None:
    source = open_data(DataConfig(path=unsplit, test_share=0.25, validation_share=0.25))
    everything = set(unsplit.rglob("*.png"))
    assert files_of(source, "train", "validation", "test") == everything
    assert sum(map(len, source.splits.values())) == len(everything)
    assert all(images for counts in source.counts().values() for images in counts.values())
    assert source.made == ["train", "validation", "test"]


def test_a_made_split_is_a_function_of_its_seed(unsplit: Path) -> None:
    first, again, other = (open_data(DataConfig(path=unsplit, split_seed=seed)) for seed in (0, 0, 1))
    assert (first.splits, first.fingerprint) == (again.splits, again.fingerprint)
    assert first.splits != other.splits
    assert first.fingerprint != other.fingerprint


def test_validation_is_taken_from_train_where_val_is_missing(data: Path) -> None:
    whole = open_data(DataConfig(path=data))
    shutil.rmtree(data / "val")
    source = open_data(DataConfig(path=data))
    assert source.splits["test"] == whole.splits["test"]
    assert files_of(source, "train", "validation") == files_of(whole, "train")
    assert not files_of(source, "train") & files_of(source, "validation")
    assert all(source.counts()["validation"].values())


def test_a_test_split_that_is_missing_is_cut_from_train_alone(data: Path) -> None:
    whole = open_data(DataConfig(path=data))
    shutil.rmtree(data / "test")
    source = open_data(DataConfig(path=data))
    assert source.made == ["test"]
    assert source.splits["validation"] == whole.splits["validation"]
    assert files_of(source, "train", "test") == files_of(whole, "train")
    assert not files_of(source, "train") & files_of(source, "test")


def test_without_training_images_nothing_is_split(data: Path) -> None:
    shutil.rmtree(data / "train")
    with pytest.raises(ToolkitError, match="the split 'train' is missing"):
        open_data(DataConfig(path=data))


def test_a_train_folder_alone_is_divided_like_class_folders(data: Path, unsplit: Path) -> None:
    shutil.rmtree(data / "val")
    shutil.rmtree(data / "test")
    assert open_data(DataConfig(path=data)).fingerprint == open_data(DataConfig(path=unsplit)).fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such data folder"),
        (lambda root: (shutil.rmtree(root), root.touch()), "the data path is a file"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "no class folders"),
        (
            lambda root: [file.unlink() for file in (root / "val" / "red").iterdir()],
            "split 'validation' has no image of: red",
        ),
        (lambda root: shutil.rmtree(root / "test" / "blue"), "split 'test' has no image of: blue"),
        (lambda root: [shutil.rmtree(folder) for folder in root.glob("*/[br]*")], "needs two classes"),
    ],
    ids=["missing", "file", "empty", "empty-class", "split-lacks-class", "one-class"],
)
def test_data_that_does_not_fit_is_the_users_to_mend(
    data: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(data)
    with pytest.raises(ToolkitError, match=message) as caught:
        open_data(DataConfig(path=data))
    assert caught.value.where == str(data)


def test_a_broken_image_stops_before_training(data: Path) -> None:
    broken = [data / "train" / "red" / "00.png", data / "val" / "blue" / "01.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ToolkitError, match=r"unreadable image: .*\(and 1 more\)") as caught:
        open_data(DataConfig(path=data))
    assert caught.value.where == str(broken[0])
    assert "on_bad_image=skip" in caught.value.fix


def test_a_broken_image_is_skipped_and_listed_if_asked(data: Path, color_data: Path) -> None:
    broken = data / "test" / "red" / "00.png"
    broken.write_text("no image")
    source = open_data(DataConfig(path=data, on_bad_image="skip"))
    whole = open_data(DataConfig(path=color_data))
    assert source.skipped == [{"path": str(broken), "reason": "not an image that Pillow knows"}]
    assert broken not in files_of(source, *source.splits)
    assert sum(map(len, source.splits.values())) == sum(map(len, whole.splits.values())) - 1

    broken.unlink()
    removed = open_data(DataConfig(path=data))
    assert (removed.splits, removed.fingerprint) == (source.splits, source.fingerprint)


def test_a_class_whose_images_are_all_broken_is_not_skipped(data: Path) -> None:
    for path in (data / "val" / "green").iterdir():
        path.write_text("no image")
    with pytest.raises(ToolkitError, match="split 'validation' has no readable image of green"):
        open_data(DataConfig(path=data, on_bad_image="skip"))


def test_copies_across_splits_stay_in_test_before_validation_before_train(data: Path) -> None:
    in_test = [
        data / split / name
        for split, name in (("train", "red/03.png"), ("val", "red/leak.png"), ("test", "red/leak.png"))
    ]
    in_val = [data / "train" / "blue" / "02.png", data / "val" / "blue" / "leak.png"]
    for first, *copies in (in_test, in_val):
        for copy in copies:
            shutil.copyfile(first, copy)
    shutil.copyfile(data / "train" / "red" / "04.png", data / "train" / "red" / "twice.png")
    source = open_data(DataConfig(path=data))
    assert {frozenset(group) for group in source.duplicates} == {
        frozenset(map(str, paths)) for paths in (in_test, in_val)
    }
    assert source.removed == {"train": 2, "validation": 1}
    assert in_test[2] in files_of(source, "test")
    assert in_val[1] in files_of(source, "validation")
    assert not {*in_test[:2], in_val[0]} & files_of(source, "train", "validation")
    assert {data / "train" / "red" / name for name in ("04.png", "twice.png")} <= files_of(source, "train")
    assert source.contradictions == []


def test_copies_with_contradictory_labels_are_named_with_these(data: Path) -> None:
    original, copy = data / "train" / "red" / "03.png", data / "test" / "blue" / "leak.png"
    shutil.copyfile(original, copy)
    source = open_data(DataConfig(path=data))
    assert source.contradictions == [[f"{copy} (blue)", f"{original} (red)"]]
    assert source.removed == {"train": 1}


def test_the_fingerprint_does_not_depend_on_names_or_places(data: Path, color_data: Path) -> None:
    names = count()
    for path in sorted(data.rglob("*.png"), reverse=True):
        path.rename(path.with_name(f"renamed-{next(names)}.png"))
    assert open_data(DataConfig(path=data)).fingerprint == open_data(DataConfig(path=color_data)).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("RGB", (9, 9)).save(root / "train" / "red" / "00.png"),
        lambda root: Image.new("RGB", (9, 9)).save(root / "train" / "red" / "more.png"),
        lambda root: (root / "val" / "red" / "00.png").unlink(),
        lambda root: (root / "train" / "red" / "00.png").rename(root / "train" / "blue" / "moved.png"),
        lambda root: (root / "train" / "red" / "00.png").rename(root / "test" / "red" / "moved.png"),
        lambda root: [folder.rename(folder.with_name("crimson")) for folder in root.glob("*/red")],
    ],
    ids=["content", "added", "removed", "other-class", "other-split", "class-renamed"],
)
def test_the_fingerprint_depends_on_content_class_and_split(
    data: Path, color_data: Path, change: Callable[[Path], object]
) -> None:
    change(data)
    assert open_data(DataConfig(path=data)).fingerprint != open_data(DataConfig(path=color_data)).fingerprint


def test_dataset_json_is_handed_on(data: Path) -> None:
    about = {"name": "colours", "licence": "CC0"}
    (data / "dataset.json").write_text(json.dumps(about))
    assert open_data(DataConfig(path=data)).about == about


def test_a_damaged_dataset_json_is_the_users_to_mend(data: Path) -> None:
    (data / "dataset.json").write_text('{"name": ')
    with pytest.raises(ToolkitError) as caught:
        open_data(DataConfig(path=data))
    assert caught.value.where == str(data / "dataset.json")
