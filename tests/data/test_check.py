from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from counted import Counted

from toolkit.data.check import check_data
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig


@pytest.fixture
def data(color_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_data, tmp_path / "data"))


def test_a_sound_folder_is_counted_as_training_counts_it(color_data: Path) -> None:
    counted = Counted()
    report = check_data(DataConfig(path=color_data), counted)
    source = open_data(DataConfig(path=color_data))
    assert report["problems"] == report["unreadable"] == report["duplicates_across_splits"] == []
    assert (report["classes"], report["counts"]) == (source.classes, source.counts())
    images = sum(report["sizes"].values())
    assert report["images"] == images
    assert counted.seen == [(done, images) for done in range(1, images + 1)]
    assert report["modes"] == {"RGB": report["images"]}
    assert list(report["sizes"].values()) == sorted(report["sizes"].values(), reverse=True)
    assert json.loads(json.dumps(report)) == report


def test_unreadable_files_are_all_listed(data: Path) -> None:
    broken = [data / "test" / "red" / "00.png", data / "train" / "blue" / "01.png"]
    broken[0].write_text("no image")
    broken[1].write_bytes(b"")
    report = check_data(DataConfig(path=data))
    assert {entry["path"] for entry in report["unreadable"]} == set(map(str, broken))
    assert all(entry["reason"] for entry in report["unreadable"])
    assert report["problems"] == ["2 unreadable files"]
    assert sum(report["sizes"].values()) == report["images"] - 2


def test_duplicates_are_those_that_training_finds(data: Path) -> None:
    shutil.copyfile(data / "train" / "red" / "03.png", data / "test" / "red" / "leaked.png")
    report = check_data(DataConfig(path=data))
    assert report["duplicates_across_splits"] == open_data(DataConfig(path=data)).duplicates
    assert report["duplicates_removed"] == {"train": 1}
    assert report["problems"] == ["1 images stand in more than one split; a run leaves their copies out: 1 from train"]


@pytest.mark.parametrize(
    ("remove", "problem"),
    [("test/red", "no image in test of: red"), ("val/blue/*.png", "no image in validation of: blue")],
)
def test_classes_without_images_are_named_where_training_would_stop(data: Path, remove: str, problem: str) -> None:
    for path in list(data.glob(remove)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert check_data(DataConfig(path=data))["problems"] == [problem]
    with pytest.raises(ToolkitError):
        open_data(DataConfig(path=data))


def test_one_class_alone_is_a_problem(color_data: Path, tmp_path: Path) -> None:
    shutil.copytree(color_data / "train" / "red", tmp_path / "red")
    report = check_data(DataConfig(path=tmp_path))
    assert report["counts"] == {"all": {"red": report["images"]}}
    assert report["problems"] == ["a classifier needs two classes or more"]


def test_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no such data folder"):
        check_data(DataConfig(path=tmp_path / "missing"))


def test_splits_that_training_could_not_make_are_a_problem(color_data: Path, tmp_path: Path) -> None:
    files = sorted(color_data.rglob("*.png"))

    def manifest(name: str, column: str, values: list[str]) -> DataConfig:
        rows = [f"{file},{file.parent.name},{value}\n" for file, value in zip(files, values, strict=True)]
        (tmp_path / name).write_text(f"path,label,{column}\n{''.join(rows)}")
        return DataConfig(path=tmp_path / name)

    large = ["large" if index % 8 else str(index) for index in range(len(files))]
    tests = ["test" if index % 2 else "val" for index in range(len(files))]
    for config, problem in (
        (manifest("groups.csv", "group", large), "can't hold out 20% by group"),
        (manifest("no_train.csv", "split", tests), "no training images: the split 'train' is missing"),
    ):
        with pytest.raises(ToolkitError, match=problem) as caught:
            open_data(config)
        assert check_data(config)["problems"] == [f"{caught.value.what}; {caught.value.fix}"]
    sound = manifest("small_groups.csv", "group", [str(index // 2) for index in range(len(files))])
    open_data(sound)
    assert check_data(sound)["problems"] == []


def test_splits_that_are_found_and_made_are_counted_as_a_run_has_them(data: Path) -> None:
    whole = check_data(DataConfig(path=data))
    assert whole["splits_found"] == whole["splits"] == {"train": 36, "validation": 15, "test": 21}
    assert whole["splits_made"] == {}
    shutil.rmtree(data / "test")
    (data / "val").rename(data / "DEV")
    report, source = check_data(DataConfig(path=data)), open_data(DataConfig(path=data))
    run = {split: len(examples) for split, examples in source.splits.items()}
    assert report["splits_found"] == {"train": 36, "validation": 15}
    assert report["splits_made"] == {"test": run["test"]}
    assert report["splits"] == run
    shutil.rmtree(data / "DEV")
    unsplit = DataConfig(path=data / "train")
    report, source = check_data(unsplit), open_data(unsplit)
    assert report["splits_found"] == {}
    assert report["splits_made"] == report["splits"] == {split: len(each) for split, each in source.splits.items()}


def test_what_is_left_out_is_counted_by_reason_as_in_a_run(data: Path) -> None:
    for name in ("train/red/@eaDir/00.png", "train/red/notes.txt", "test/loose.png", "val/blue/._00.png"):
        (data / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(data / "train" / "red" / "00.png", data / name)
    report = check_data(DataConfig(path=data))
    assert report["left_out"] == {".txt": 1, "@eaDir": 1, "hidden": 1, "in no class folder": 1}
    assert open_data(DataConfig(path=data)).left_out == report["left_out"]
    assert report["images"] == 72
    assert report["problems"] == []


def test_classes_that_look_alike_are_a_problem(data: Path) -> None:
    for split in ("train", "val", "test"):
        (data / split / "Red ").mkdir()
        for file in sorted((data / split / "red").iterdir())[:2]:
            file.rename(data / split / "Red " / file.name)
    report = check_data(DataConfig(path=data))
    assert report["similar_classes"] == [["Red ", "red"]]
    assert report["problems"] == [
        "classes 'Red ' and 'red' differ only by case, blanks or Unicode form; give them one name"
    ]


def test_copies_with_another_label_are_named(data: Path) -> None:
    shutil.copyfile(data / "train" / "red" / "03.png", data / "test" / "blue" / "leak.png")
    report = check_data(DataConfig(path=data))
    assert report["duplicates_with_other_labels"] == report["duplicates_across_splits"]
    assert "1 images stand there again with another label" in report["problems"]


def test_a_class_that_has_only_copies_of_test_images_is_a_problem_where_training_stops(data: Path) -> None:
    for file in (data / "train" / "red").iterdir():
        file.unlink()
    for file in (data / "test" / "red").iterdir():
        shutil.copyfile(file, data / "train" / "red" / file.name)
    report = check_data(DataConfig(path=data))
    assert "without copies of images of other splits, train has no image of: red" in report["problems"]
    with pytest.raises(ToolkitError, match="split 'train' has no readable image of red"):
        open_data(DataConfig(path=data))
