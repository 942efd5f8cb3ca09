"""Texts beside images: the same in every format, part of what a sample is, and no part of image-only data."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from toolkit.data.check import check_data
from toolkit.data.evaluation_data import open_evaluation_data
from toolkit.data.formats import list_data
from toolkit.data.listing import SPLITS
from toolkit.data.shard_index import index_of
from toolkit.data.sharding import index_shards, write_shards
from toolkit.data.source import DataSource, open_data
from toolkit.data.texts import describe_texts, text_of, texts_of
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.recipe.reading import load_data_config
from toolkit.runtime.decode import UnreadableImageError

TEXTS = (
    "a red shirt",
    " leading, and trailing blanks ",
    'quotes "and" commas',
    "two\nlines",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GIRL} שלום",
    "nan",
    "7",
    "e\N{COMBINING ACUTE ACCENT}",
)
Rows = list[dict[str, Any]]
Write = Callable[[Rows, Path], Path]


def rows_of(folder: Path) -> Rows:
    """A row an image of a folder with splits, its text decided by its place."""
    files = sorted(folder.rglob("*.png"))
    return [
        {
            "path": str(file),
            "label": file.parent.name,
            "split": file.parent.parent.name,
            "caption": f"{TEXTS[place % len(TEXTS)]}" if place % 3 else f"text {place}",
        }
        for place, file in enumerate(files)
    ]


def as_csv(rows: Rows, to: Path) -> Path:
    with to.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return to.with_suffix(".csv")


def as_parquet(rows: Rows, to: Path) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), to.with_suffix(".parquet"))
    return to.with_suffix(".parquet")


def as_data_set(rows: Rows, to: Path) -> Path:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("string"), "caption": datasets.Value("string")}
    )
    parts = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [row for row in rows if row["split"] == split]
        image = [{"bytes": Path(row["path"]).read_bytes(), "path": None} for row in own]
        table = {"image": image} | {key: [row[key] for row in own] for key in ("label", "caption")}
        parts[split] = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(parts).save_to_disk(to)
    return to


def as_shards(rows: Rows, to: Path) -> Path:
    manifest = as_csv(rows, to.with_name(f"{to.name}-of"))
    write_shards(captioned(manifest, missing_text="allow"), to, images_per_shard=7)
    return to


def as_shards_without_index(rows: Rows, to: Path) -> Path:
    as_shards(rows, to)
    for index in to.glob("*.jsonl"):
        index.unlink()
    return to


def as_shards_of_others(rows: Rows, to: Path) -> Path:
    """With a member for the text beside the label's."""
    to.mkdir()
    for split in dict.fromkeys(row["split"] for row in rows):
        members: dict[str, bytes] = {}
        for place, row in enumerate(row for row in rows if row["split"] == split):
            members |= {f"{place}.png": Path(row["path"]).read_bytes(), f"{place}.cls": row["label"].encode()}
            if row["caption"] is not None:
                members[f"{place}.caption"] = row["caption"].encode()
        tar_of(to / f"{split}.tar", members)
    return to


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


WRITERS: dict[str, Write] = {
    "csv": as_csv,
    "parquet": as_parquet,
    "datasets": as_data_set,
    "shards": as_shards,
    "shards without an index": as_shards_without_index,
    "shards of others": as_shards_of_others,
}
every_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def captioned(path: Path, **settings: Any) -> DataConfig:
    return DataConfig(path=path, columns={"text": "caption"}, **settings)  # type: ignore[arg-type]


def samples(source: DataSource) -> dict[str, list[tuple[int, str, str | None]]]:
    return {split: [(each.label, each.sha256, each.text) for each in source.splits[split]] for split in SPLITS}


@every_format
def test_texts_are_the_same_to_the_character_in_every_format(color_data: Path, tmp_path: Path, write: Write) -> None:
    rows = rows_of(color_data)
    source = open_data(captioned(write(rows, tmp_path / "data")))
    reference = open_data(captioned(as_csv(rows, tmp_path / "reference")))
    assert samples(source) == samples(reference)
    assert sorted(text or "" for split in SPLITS for text in source.texts(split)) == sorted(
        row["caption"] for row in rows
    )
    assert source.fingerprint == reference.fingerprint
    assert [source.order(split) for split in SPLITS] == [reference.order(split) for split in SPLITS]
    assert (source.has_texts, source.has_images) == (True, True)


@every_format
def test_without_the_column_the_data_is_that_of_the_images_alone(
    color_data: Path, tmp_path: Path, write: Write
) -> None:
    alone = open_data(DataConfig(path=color_data))
    other = open_data(DataConfig(path=write(rows_of(color_data), tmp_path / "data")))
    assert (other.fingerprint, other.has_texts) == (alone.fingerprint, False)
    assert [other.order(split) for split in SPLITS] == [alone.order(split) for split in SPLITS]
    assert {each.identity for split in SPLITS for each in other.splits[split]} == {
        each.sha256 for split in SPLITS for each in alone.splits[split]
    }
    assert "texts" not in check_data(DataConfig(path=other.root))


@every_format
@pytest.mark.parametrize("empty", [None, "", " \t"])
def test_rows_without_a_text_are_named_or_allowed(
    color_data: Path, tmp_path: Path, write: Write, empty: str | None
) -> None:
    rows = rows_of(color_data)
    for place in (3, 5):
        rows[place]["caption"] = empty
    path = write(rows, tmp_path / "data")
    with pytest.raises(ToolkitError, match="no text in ") as caught:
        open_data(captioned(path))
    assert "data.missing_text=allow" in caught.value.fix
    source = open_data(captioned(path, missing_text="allow"))
    without = [each for split in SPLITS for each in source.splits[split] if each.text is None]
    assert [each.identity for each in without] == [each.sha256 for each in without]
    assert len(without) == 2


@pytest.mark.parametrize(
    ("cell", "text"), [(3, "3"), (True, "True"), (2.5, "2.5"), (float("nan"), None), ("NaN", "NaN"), ("\0", "\0")]
)
def test_a_cell_is_read_as_it_is_written(cell: Any, text: str | None) -> None:
    assert text_of(cell) == text


def test_a_cell_that_is_no_text_is_refused_with_its_row(tmp_path: Path) -> None:
    table = {"path": ["a.png", "b.png"], "label": ["x", "y"], "caption": [["one"], ["two", "three"]]}
    parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
    with pytest.raises(ToolkitError, match="no Unicode text in row 1, 2"):
        list_data(captioned(tmp_path / "m.parquet"))


def test_half_of_a_surrogate_pair_is_refused_by_name(color_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no Unicode text in sample b\.png .*surrogate"):
        texts_of(["a", "\ud83d alone"], ["a.png", "b.png"], missing="allow", kind="sample", where=tmp_path)
    image = next(color_data.rglob("*.png")).read_bytes()
    about = b'{"label": "x", "caption": "\\ud83d alone"}'
    (tmp_path / "shards").mkdir()
    tar_of(tmp_path / "shards" / "train.tar", {"0.png": image, "0.json": about})
    with pytest.raises(ToolkitError, match=r"0: label or JSON is damaged: .*hex escape"):
        list_data(captioned(tmp_path / "shards"))


def test_an_image_may_stand_there_again_with_another_text_but_not_with_the_same(
    color_data: Path, tmp_path: Path
) -> None:
    rows = rows_of(color_data)
    again = [row | {"caption": f"another {row['caption']}"} for row in rows]
    items = list_data(captioned(as_csv([*rows, *again], tmp_path / "both"))).items
    assert len({item.name for item in items}) == len(rows) == len(items) // 2
    with pytest.raises(ToolkitError, match="the same path and text more than once in row 1, "):
        list_data(captioned(as_csv([*rows, *rows], tmp_path / "twice")))


def unsplit(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "split"} for row in rows]


def test_all_texts_of_an_image_stay_on_one_side_of_the_splits_that_are_made(color_data: Path, tmp_path: Path) -> None:
    rows = unsplit(rows_of(color_data))
    alone = open_data(DataConfig(path=as_csv(rows, tmp_path / "alone")))
    copies = [row | {"caption": f"{row['caption']} {number}"} for row in rows for number in range(3)]
    source = open_data(captioned(as_csv(copies, tmp_path / "copies")))
    homes = [{each.sha256 for each in source.splits[split]} for split in SPLITS]
    assert not homes[0] & homes[1] | homes[1] & homes[2] | homes[0] & homes[2]
    assert homes == [{each.sha256 for each in alone.splits[split]} for split in SPLITS]  # whatever the texts are
    assert sum(map(len, source.splits.values())) == 3 * len(rows)


def test_only_the_same_image_with_the_same_text_is_a_copy(color_data: Path, tmp_path: Path) -> None:
    rows = rows_of(color_data)
    in_test = next(row for row in rows if row["split"] == "test")
    copied = Path(shutil.copyfile(in_test["path"], tmp_path / "copy.png"))
    same = in_test | {"path": str(copied), "split": "train"}
    source = open_data(captioned(as_csv([*rows, same], tmp_path / "same")))
    assert source.duplicates == [sorted([in_test["path"], str(copied)])]
    assert source.removed == {"train": 1}
    other = same | {"caption": "something else", "label": "blue" if in_test["label"] != "blue" else "red"}
    config = captioned(as_csv([*rows, other], tmp_path / "other"))
    source = open_data(config)
    assert (source.duplicates, source.removed, source.contradictions) == ([], {}, [])
    report = check_data(config)
    assert report["images_across_splits_with_other_texts"] == [sorted([in_test["path"], str(copied)])]
    assert report["problems"] == ["1 images stand in more than one split, beside other texts"]
    contradicting = same | {"split": "test", "label": other["label"]}
    assert len(open_data(captioned(as_csv([*rows, contradicting], tmp_path / "odd"))).contradictions) == 1


def test_another_text_is_another_data_set(color_data: Path, tmp_path: Path) -> None:
    rows = rows_of(color_data)
    before = open_data(captioned(as_csv(rows, tmp_path / "before")))
    rows[0]["caption"] += "!"
    after = open_data(captioned(as_csv(rows, tmp_path / "after")))
    assert before.fingerprint != after.fingerprint
    assert [before.order(split) != after.order(split) for split in SPLITS].count(True) == 1


def test_data_check_says_what_the_texts_are_like(color_data: Path, tmp_path: Path) -> None:
    rows = rows_of(color_data)
    for place, row in enumerate(rows):
        row["caption"] = "same" if place < 4 else "x" * place
    rows[5]["caption"] = ""
    report = check_data(captioned(as_csv(rows, tmp_path / "data"), missing_text="allow"))
    lengths = np.array([len(row["caption"]) for row in rows if row["caption"]])
    assert report["texts"] == {
        "count": len(rows) - 1,
        "missing": 1,
        "different": len(rows) - 4,
        "repeated": 4,
        "characters": {"shortest": lengths.min(), "median": np.median(lengths), "longest": lengths.max()},
    }
    assert report["problems"] == []


def test_no_text_at_all_has_no_lengths() -> None:
    found = describe_texts([None, None])
    assert (found["count"], found["missing"], found["characters"]) == (0, 2, None)


def test_an_index_is_of_the_texts_that_are_asked_for(color_data: Path, tmp_path: Path) -> None:
    rows = rows_of(color_data)
    shards = as_shards_of_others(rows, tmp_path / "shards")
    index_shards(shards)
    assert all("text" not in json.loads(line) for line in index_of(shards / "train.tar").read_text().splitlines())
    with pytest.raises(ToolkitError, match="made without texts") as caught:
        list_data(captioned(shards))
    assert caught.value.fix.endswith(f"toolkit data index {shards} columns.text=caption")
    index_shards(shards, text="caption")
    assert sorted(item.text or "" for item in list_data(captioned(shards)).items) == sorted(
        row["caption"] for row in rows
    )
    assert {item.text for item in list_data(DataConfig(path=shards)).items} == {None}
    with pytest.raises(ToolkitError, match="with the texts of 'caption', not with those of 'title'"):
        list_data(DataConfig(path=shards, columns={"text": "title"}))  # type: ignore[arg-type]


def test_a_txt_member_is_the_label_unless_it_is_the_text(color_data: Path, tmp_path: Path) -> None:
    image = next(color_data.rglob("*.png")).read_bytes()
    (tmp_path / "shards").mkdir()
    members = {"0.png": image, "0.txt": b"some words", "0.json": b'{"label": "x"}'}
    tar_of(tmp_path / "shards" / "train.tar", members)
    assert [item.label for item in list_data(DataConfig(path=tmp_path / "shards")).items] == ["some words"]
    listing = list_data(DataConfig(path=tmp_path / "shards", columns={"text": "txt"}))  # type: ignore[arg-type]
    assert [(item.label, item.text) for item in listing.items] == [("x", "some words")]
    assert listing.left_out == {}


@pytest.mark.parametrize("taken", ["split", "cls", "json"])
def test_shards_keep_no_texts_where_something_else_stands(color_data: Path, tmp_path: Path, taken: str) -> None:
    columns = {"text": taken, "split": "set"}
    rows = [{(taken if key == "caption" else key): value for key, value in row.items()} for row in rows_of(color_data)]
    for row in rows:
        row["set"] = row.pop("split") if taken != "split" else "train"
    config = DataConfig(path=as_csv(rows, tmp_path / "data"), columns=columns)  # type: ignore[arg-type]
    with pytest.raises(ToolkitError, match="shards keep no texts in"):
        write_shards(config, tmp_path / "shards")


def test_texts_without_images(color_data: Path, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "path"} for row in rows_of(color_data)]
    for place, row in enumerate(rows):
        row["caption"] = f"{row['caption']} {place}"
    path = as_csv(rows, tmp_path / "data")
    with pytest.raises(ToolkitError, match="column 'path' is missing") as caught:
        list_data(captioned(path))
    assert "data.columns.path=null" in caught.value.fix
    config = load_data_config(path, ["columns.text=caption", "columns.path=null"])
    source = open_data(config)
    assert sum(map(len, source.splits.values())) == len(rows)
    assert (source.has_images, source.has_texts) == (False, True)
    first = source.splits["train"][0]
    assert (first.sha256, len(first.identity)) == ("", 64)
    assert first.path.parent == path
    with pytest.raises(UnreadableImageError, match="a text without an image"):
        first.decode()
    report = check_data(config)
    assert (report["images"], report["problems"], report["sizes"]) == (len(rows), [], {})
    assert open_evaluation_data(config, source.classes, "test").images == source.splits["test"]
    rows[1]["caption"] = ""
    bare = as_csv(rows, tmp_path / "bare")
    with pytest.raises(ToolkitError, match="no text in row 2"):
        open_data(config.model_copy(update={"path": bare, "missing_text": "allow"}))


def test_texts_without_images_of_a_data_set(tmp_path: Path) -> None:
    table = {"label": ["a", "b"] * 12, "caption": [f"text {place}" for place in range(24)]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "set")
    config = DataConfig(path=tmp_path / "set", columns={"text": "caption", "image": None})  # type: ignore[arg-type]
    source = open_data(config)
    assert sorted(text or "" for split in SPLITS for text in source.texts(split)) == sorted(table["caption"])
    assert source.made == list(SPLITS)


def test_a_folder_of_images_holds_no_texts(color_data: Path) -> None:
    with pytest.raises(ToolkitError, match="folders of images hold no texts"):
        list_data(captioned(color_data))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["columns.text=label"], "text and label are one column"),
        (["columns.path=null"], "samples without images need texts"),
        (["columns.text=caption", "missing_text=skip"], "missing_text"),
    ],
)
def test_settings_that_contradict_are_one_message(color_data: Path, settings: list[str], what: str) -> None:
    with pytest.raises(ToolkitError, match=what):
        load_data_config(color_data, settings)


def test_resolved_recipes_without_texts_say_nothing_of_them(color_data: Path) -> None:
    content = DataConfig(path=color_data).model_dump(mode="json")
    assert "text" not in content["columns"]
    assert "missing_text" not in content
    said = captioned(color_data, missing_text="allow").model_dump(mode="json")
    assert (said["columns"]["text"], said["missing_text"]) == ("caption", "allow")
