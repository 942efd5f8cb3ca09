"""Data sets whose images have several labels: how they are written, split, packed and checked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from toolkit.data.check import check_data
from toolkit.data.formats import list_data
from toolkit.data.shapes import MANIFEST, SHAPES, write_shapes
from toolkit.data.sharding import index_shards, write_shards
from toolkit.data.source import DataSource, open_data
from toolkit.data.stratified import stratified
from toolkit.data.target import labels_text, require_target
from toolkit.errors import ToolkitError
from toolkit.recipe.data import ColumnsConfig, DataConfig

SETS = [["cat", "dog"], ["dog"], [], ["bird"], ["bird", "cat"], ["cat"]] * 6


def images(folder: Path, count: int = len(SETS)) -> list[str]:
    """Image files of different contents."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number:02d}.png" for number in range(count)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def config_of(path: Path, **columns: Any) -> DataConfig:
    return DataConfig(path=path, columns=ColumnsConfig(**({"labels": "labels"} | columns)))


def csv_of(folder: Path, cells: list[str], heading: str = "path,labels") -> Path:
    rows = [f"{name},{cell}" for name, cell in zip(images(folder, len(cells)), cells, strict=True)]
    path = folder / "m.csv"
    path.write_text("\n".join([heading, *rows]) + "\n")
    return path


def known(source: DataSource) -> dict[str, list[str]]:
    """The labels of each image by its file."""
    examples = [example for examples in source.splits.values() for example in examples]
    return {
        example.path.name: [source.classes[place] for place in source.target.shown(example.label)]
        for example in examples
    }


EXPECTED = {f"{number:02d}.png": sorted(names) for number, names in enumerate(SETS)}


@pytest.mark.parametrize("separator", ["|", ";", " / "])
def test_names_may_be_joined_by_a_separator(tmp_path: Path, separator: str) -> None:
    path = csv_of(tmp_path, [separator.join(names) for names in SETS])
    source = open_data(config_of(path, separator=separator))
    assert source.classes == ["bird", "cat", "dog"]
    assert known(source) == EXPECTED
    assert source.labels("train").shape == (len(source.splits["train"]), 3)
    assert set(np.unique(source.labels("train"))) == {0, 1}


def test_every_way_to_write_them_is_the_same_data_set(tmp_path: Path) -> None:
    names = images(tmp_path)
    joined = csv_of(tmp_path, ["|".join(labels) for labels in SETS])
    as_json = tmp_path / "json.csv"
    quoted = [json.dumps(labels).replace('"', '""') for labels in SETS]
    rows = [f'{name},"{cell}"' for name, cell in zip(names, quoted, strict=True)]
    as_json.write_text("\n".join(["path,labels", *rows]))
    lists = tmp_path / "lists.parquet"
    parquet.write_table(pyarrow.table({"path": names, "labels": SETS}), lists)
    flags = tmp_path / "flags.csv"
    rows = [
        f"{name},{','.join(str(int(one in labels)) for one in ('bird', 'cat', 'dog'))}"
        for name, labels in zip(names, SETS, strict=True)
    ]
    flags.write_text("\n".join(["path,bird,cat,dog", *rows]))
    hub = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / name) for name in names], "labels": SETS},
        features=datasets.Features(
            {"image": datasets.Image(), "labels": datasets.Sequence(datasets.ClassLabel(names=["bird", "cat", "dog"]))}
        ),
    )
    hub.save_to_disk(str(tmp_path / "hub"))
    write_shards(config_of(joined), tmp_path / "shards", images_per_shard=10)
    configs = [
        config_of(joined),
        config_of(as_json),
        config_of(lists),
        config_of(tmp_path / "hub"),
        config_of(tmp_path / "shards"),
    ]
    configs.append(config_of(flags, labels=["bird", "cat", "dog"]))
    sources = [open_data(config) for config in configs]
    assert {source.fingerprint for source in sources} == {sources[0].fingerprint}
    assert all(source.classes == ["bird", "cat", "dog"] for source in sources)
    for index in (tmp_path / "shards").glob("*.index.jsonl"):
        index.unlink()
    assert open_data(configs[4]).fingerprint == sources[0].fingerprint
    index_shards(tmp_path / "shards")
    assert open_data(configs[4]).fingerprint == sources[0].fingerprint


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("cat||dog", "a label without a name in row 2"),
        ("[cat", "no JSON list .* in row 2"),
        ('"{""a"": 1}"', None),
        ('"[1, """"]"', "a label without a name in row 2"),
    ],
)
def test_a_cell_that_says_nothing_is_refused_with_its_row(tmp_path: Path, cell: str, what: str | None) -> None:
    path = csv_of(tmp_path, ["cat", cell, "dog"])
    if what is None:
        assert '{"a": 1}' in list_data(config_of(path)).classes  # a name like any other
        return
    with pytest.raises(ToolkitError, match=what) as caught:
        list_data(config_of(path))
    assert "[]" in caught.value.fix


def test_a_row_without_its_cell_is_refused_and_an_empty_one_is_no_label(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["cat", "", "dog"])
    assert [item.label for item in list_data(config_of(path)).items] == ['["cat"]', "[]", '["dog"]']
    path.write_text(path.read_text() + "images/00.png\n")
    with pytest.raises(ToolkitError, match="no labels in row 4"):
        list_data(config_of(path))
    table = pyarrow.table({"path": ["a", "b"], "labels": pyarrow.array([["cat"], None])})
    parquet.write_table(table, tmp_path / "null.parquet")
    with pytest.raises(ToolkitError, match="no labels in row 2"):
        list_data(config_of(tmp_path / "null.parquet"))


def test_a_missing_column_names_the_key(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["cat", "dog"], "path,tags")
    with pytest.raises(ToolkitError, match="column 'labels' is missing; there are: path, tags") as caught:
        list_data(config_of(path))
    assert "data.columns.labels=NAME" in caught.value.fix
    with pytest.raises(ToolkitError, match="column 'cat' is missing"):
        list_data(config_of(path, labels=["cat", "dog"]))


@pytest.mark.parametrize(("cell", "said"), [("2", "'2'"), ("", "empty"), ("-1", "'-1'"), ("maybe", "'maybe'")])
def test_a_column_of_a_label_holds_0_or_1(tmp_path: Path, cell: str, said: str) -> None:
    path = csv_of(tmp_path, ["1,0", f"{cell},1", "0,true"], "path,cat,dog")
    with pytest.raises(ToolkitError, match=rf"neither 0 nor 1 \({said}\) in 'cat', row 2"):
        list_data(config_of(path, labels=["cat", "dog"]))


def test_an_unknown_label_is_named_with_its_row(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["cat", "dog|cat", "cat|fish"])
    config = DataConfig(path=path, columns=ColumnsConfig(labels="labels"), classes=["cat", "dog"])
    with pytest.raises(ToolkitError, match=r"labels outside data.classes: fish \(first at .*02.png, row 3\)"):
        list_data(config)


def test_a_label_that_no_training_image_shows_is_refused_and_one_of_validation_is_not(tmp_path: Path) -> None:
    cells = ["cat|dog,train", "cat,train", "dog,train", "cat,val", "dog,test"]
    source = open_data(config_of(csv_of(tmp_path / "a", cells, "path,labels,split")))
    assert source.counts()["validation"] == {"cat": 1, "dog": 0}
    cells = ["cat,train", "cat,train", "dog,val", "cat,test"]
    with pytest.raises(ToolkitError, match="split 'train' has no image of: dog"):
        open_data(config_of(csv_of(tmp_path / "b", cells, "path,labels,split")))


def test_a_folder_and_shards_of_one_class_are_refused(tmp_path: Path, color_data: Path) -> None:
    with pytest.raises(ToolkitError, match=r"one class an image, and data.columns.labels asks"):
        list_data(config_of(color_data))
    write_shards(DataConfig(path=color_data), tmp_path / "shards")
    with pytest.raises(ToolkitError, match="has one class, and no list of labels"):
        list_data(config_of(tmp_path / "shards"))
    write_shards(config_of(csv_of(tmp_path, ["cat", "dog|cat"])), tmp_path / "sets")
    with pytest.raises(ToolkitError, match="has several labels") as caught:
        list_data(DataConfig(path=tmp_path / "sets"))
    assert "data.columns.labels" in caught.value.fix


def test_a_task_takes_one_kind_of_target() -> None:
    require_target("labels", ColumnsConfig(labels="tags"), "multi-label")
    with pytest.raises(ToolkitError, match="multi-label takes several labels an image, and the data has one class"):
        require_target("labels", ColumnsConfig(), "multi-label")
    with pytest.raises(ToolkitError, match="single-label takes one class an image, and the data has several labels"):
        require_target("class", ColumnsConfig(labels=["a", "b"]), "single-label")


def test_a_recipe_that_asks_for_none_of_this_says_nothing_of_it() -> None:
    assert set(ColumnsConfig().model_dump()) == {"path", "image", "label", "split", "group"}
    assert ColumnsConfig(labels="tags").model_dump()["labels"] == "tags"


class Unit:
    def __init__(self, number: float, strata: list[int]) -> None:
        self.number, self.counts = number, Counter(strata)


def test_every_label_is_divided_in_proportion_and_most_images_stay_where_their_number_puts_them() -> None:
    rng = np.random.default_rng(0)
    shares, bands = {"test": 0.2, "train": 0.8}, {"test": (0.0, 0.2), "train": (0.0, 1.0)}
    frequency = np.array([0.02, 0.1, 0.3, 0.5])
    units = [
        Unit(number, np.flatnonzero(rng.random(4) < frequency).tolist() or [4]) for number in np.sort(rng.random(2000))
    ]
    chosen = stratified(units, shares, bands)
    assert set(chosen) == {"test", "train"}
    for label in range(5):
        members = [split for unit, split in zip(units, chosen, strict=True) if label in unit.counts]
        by_number = np.mean([unit.number < 0.2 for unit in units if label in unit.counts])
        assert abs(members.count("test") - 0.2 * len(members)) <= 3, (label, by_number)
    moved = [split != ("test" if unit.number < 0.2 else "train") for unit, split in zip(units, chosen, strict=True)]
    assert np.mean(moved) < 0.05
    assert stratified(units, shares, bands) == chosen


def test_made_splits_hold_every_label_and_the_images_without_any(tmp_path: Path) -> None:
    source = open_data(config_of(csv_of(tmp_path, ["|".join(names) for names in SETS])))
    assert source.made == ["train", "validation", "test"]
    for split, counts in source.counts().items():
        assert all(counts.values()), split
    assert sum(map(len, source.splits.values())) == len(SETS)


def test_a_check_counts_labels_and_what_is_seen_together(tmp_path: Path) -> None:
    report = check_data(config_of(csv_of(tmp_path, ["|".join(names) for names in SETS])))
    assert report["classes"] == ["bird", "cat", "dog"]
    assert report["counts"] == {"all": {"bird": 12, "cat": 18, "dog": 12}}
    assert report["co_occurrence"] == [[12, 6, 0], [6, 18, 6], [0, 6, 12]]
    assert (report["images_without_label"], report["images"]) == (6, 36)
    assert report["labels_an_image"] == pytest.approx(42 / 36)
    assert report["problems"] == []
    assert sum(report["splits"].values()) == 36


def test_copies_with_other_labels_are_named_whatever_the_order_of_theirs(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["cat|dog", "dog|cat", "cat", "dog", "cat", "dog"])
    content = (tmp_path / "images" / "00.png").read_bytes()
    (tmp_path / "images" / "01.png").write_bytes(content)
    assert check_data(config_of(path))["duplicates_with_other_labels"] == []
    (tmp_path / "images" / "02.png").write_bytes(content)
    assert len(check_data(config_of(path))["duplicates_with_other_labels"]) == 1


def test_drawn_shapes_are_the_same_for_the_same_seed_and_hold_what_they_say(tmp_path: Path) -> None:
    about = write_shapes(tmp_path / "a", images=200)
    again = write_shapes(tmp_path / "b", images=200)
    assert about == again
    assert about["classes"] == list(SHAPES)
    assert about["labels_an_image"]["0"] > 0
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()
    report = check_data(config_of(tmp_path / "a" / MANIFEST))
    assert report["problems"] == []
    together = np.array(report["co_occurrence"])
    assert together[SHAPES.index("cross"), SHAPES.index("square")] == 0
    assert together[SHAPES.index("ring"), SHAPES.index("circle")] > 0.4 * together[SHAPES.index("ring")].max()
    other = write_shapes(tmp_path / "c", images=200, seed=1)
    assert other["fingerprint"] != about["fingerprint"]


def test_a_label_set_reads_the_same_in_any_order() -> None:
    assert labels_text(["dog", "cat", "dog"]) == labels_text(["cat", "dog"]) == '["cat", "dog"]'
