"""The same images in every format give the same data set, whatever files they lie in."""

from __future__ import annotations

import csv
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from toolkit.data.formats import format_of, list_data
from toolkit.data.listing import SPLITS, check_listing, split_named
from toolkit.data.sharding import write_shards
from toolkit.data.source import DataSource, open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

Rows = list[dict[str, str]]


def rows_of(folder: Path) -> Rows:
    """A row an image of a folder, in an order of its own."""
    files = sorted(folder.rglob("*.png"), key=lambda file: (file.name, str(file)))
    return [
        {"path": str(file.relative_to(folder)), "label": file.parent.name, "split": file.parent.parent.name}
        for file in files
    ]


def write_csv(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_csv(folder: Path, to: Path) -> Path:
    return write_csv(folder / f"{to.name}.csv", rows_of(folder))


def as_tsv(folder: Path, to: Path) -> Path:
    return write_csv(folder / f"{to.name}.tsv", rows_of(folder), "\t")


def as_parquet(folder: Path, to: Path) -> Path:
    path = folder / f"{to.name}.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows_of(folder)), path)
    return path


def as_data_set(folder: Path, to: Path) -> Path:
    names = sorted({row["label"] for row in rows_of(folder)})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    parts = {}
    for split in {row["split"] for row in rows_of(folder)}:
        rows = [row for row in rows_of(folder) if row["split"] == split]
        content = [{"bytes": (folder / row["path"]).read_bytes(), "path": None} for row in rows]
        table = {"image": content, "label": [names.index(row["label"]) for row in rows]}
        parts[split] = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(parts).save_to_disk(to)
    return to


def as_shards(folder: Path, to: Path) -> Path:
    write_shards(DataConfig(path=folder), to, images_per_shard=7)
    return to


def as_shards_without_index(folder: Path, to: Path) -> Path:
    as_shards(folder, to)
    for index in to.glob("*.jsonl"):
        index.unlink()
    return to


WRITERS = {
    "csv": as_csv,
    "tsv": as_tsv,
    "parquet": as_parquet,
    "datasets": as_data_set,
    "shards": as_shards,
    "shards without an index": as_shards_without_index,
}
Write = Callable[[Path, Path], Path]


@pytest.fixture
def data(color_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_data, tmp_path / "data"))


def contents(source: DataSource) -> dict[str, list[tuple[int, str]]]:
    return {split: [(each.label, each.sha256) for each in source.splits[split]] for split in SPLITS}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_same_images_are_the_same_data_set(data: Path, tmp_path: Path, write: Write) -> None:
    folder = open_data(DataConfig(path=data))
    other = open_data(DataConfig(path=write(data, tmp_path / "other")))
    assert contents(other) == contents(folder)
    assert (other.classes, other.fingerprint) == (folder.classes, folder.fingerprint)
    assert [other.order(split) for split in SPLITS] == [folder.order(split) for split in SPLITS]
    for split in SPLITS:
        for mine, theirs in zip(other.splits[split], folder.splits[split], strict=True):
            assert mine.read() == theirs.read()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_same_split_is_made_of_the_same_images(data: Path, tmp_path: Path, write: Write) -> None:
    for file in sorted(data.rglob("*.png")):  # without splits
        target = data / "all" / file.parent.name / f"{file.parent.parent.name}-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    for split in ("train", "val", "test"):
        shutil.rmtree(data / split)
    (data / "all").rename(tmp_path / "unsplit")
    if write is as_data_set:
        return_to = tmp_path / "set"
        names = sorted(path.name for path in (tmp_path / "unsplit").iterdir())
        files = sorted((tmp_path / "unsplit").rglob("*.png"))
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        table = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
        datasets.Dataset.from_dict(table, features=features).save_to_disk(return_to)
        assert len(names) == 3
        other_path = return_to
    elif write in (as_csv, as_tsv, as_parquet):
        rows = [
            {"path": str(file), "label": file.parent.name} for file in sorted((tmp_path / "unsplit").rglob("*.png"))
        ]
        other_path = write_csv(tmp_path / "unsplit.csv", rows)
    else:
        other_path = write(tmp_path / "unsplit", tmp_path / "other")
    settings = {"split_seed": 3, "test_share": 0.25}
    folder = open_data(DataConfig(path=tmp_path / "unsplit", **settings))
    assert contents(open_data(DataConfig(path=other_path, **settings))) == contents(folder)


def test_formats_are_told_from_the_path(data: Path, tmp_path: Path) -> None:
    written = {name: write(data, tmp_path / name) for name, write in WRITERS.items()}
    told = {name: format_of(path) for name, path in written.items()}
    assert format_of(data) == "folder"
    assert format_of(next(written["shards"].glob("*.tar"))) == "webdataset"
    assert told == {
        "csv": "manifest",
        "tsv": "manifest",
        "parquet": "manifest",
        "datasets": "datasets",
        "shards": "webdataset",
        "shards without an index": "webdataset",
    }


@pytest.mark.parametrize("write", [as_data_set, as_shards], ids=["datasets", "shards"])
def test_images_are_read_by_many_threads_and_after_a_trip_to_another_process(
    data: Path, tmp_path: Path, write: Write
) -> None:
    source = open_data(DataConfig(path=write(data, tmp_path / "other")))
    examples = list(pickle.loads(pickle.dumps(source)).splits["train"]) * 5
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda example: example.read(), examples))
    assert read == [example.read() for example in source.splits["train"]] * 5
    for example in examples[:3]:
        assert example.decode().size == example.decode(grey=True).size


def test_the_classes_may_be_given_in_an_order(data: Path) -> None:
    source = open_data(DataConfig(path=data, classes=["red", "blue", "green"]))
    assert source.classes == ["red", "blue", "green"]
    for example in source.splits["test"]:
        assert example.path.parent.name == source.classes[example.label]


def test_a_label_outside_the_classes_is_named_with_its_place(data: Path) -> None:
    with pytest.raises(ToolkitError, match=r"labels outside data\.classes: green .*00\.png") as caught:
        list_data(DataConfig(path=data, classes=["red", "blue"]))
    assert "add them to data.classes" in caught.value.fix


@pytest.mark.parametrize("found", ["folder", "manifest", "datasets", "webdataset"])
@pytest.mark.parametrize("there", ["missing", "file", "folder"])
def test_a_path_that_is_not_of_the_format_given_is_refused(tmp_path: Path, found: str, there: str) -> None:
    path = tmp_path / "data"
    if there == "file":
        path.write_bytes(bytes(range(256)))
    elif there == "folder":
        (path / "red").mkdir(parents=True)
    if (there, found) == ("folder", "folder"):
        return
    with pytest.raises(ToolkitError) as caught:
        check_listing(list_data(DataConfig.model_validate({"path": path, "format": found})))
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("Train", "train"),
        (" val ", "validation"),
        ("dev", "validation"),
        ("EVALUATION", "test"),
        ("holdout", None),
        ("", None),
    ],
)
def test_splits_are_known_by_their_usual_names(word: str, split: str | None) -> None:
    assert split_named(word) == split


def grouped(folder: Path, groups: Callable[[int, dict[str, str]], str], split: bool) -> Path:
    rows = [row | {"group": groups(index, row)} for index, row in enumerate(rows_of(folder))]
    if not split:
        rows = [{key: row[key] for key in ("path", "label", "group")} for row in rows]
    return write_csv(folder / "grouped.csv", rows)


def test_splits_are_made_by_group(data: Path) -> None:
    manifest = grouped(data, lambda index, row: f"patient {index * 7 % 20}", split=False)
    source = open_data(DataConfig(path=manifest))
    groups = {split: set(source.groups(split) or []) for split in SPLITS}
    assert set.union(*groups.values()) == {f"patient {number}" for number in range(20)}
    assert sum(map(len, groups.values())) == 20
    assert all(min(counts.values()) > 0 for counts in source.counts().values())


def test_a_given_split_that_divides_a_group_is_refused(data: Path) -> None:
    manifest = grouped(data, lambda index, row: "smith" if index % 7 == 4 else f"{row['split']} {index}", split=True)
    with pytest.raises(ToolkitError, match="group 'smith' stands in test and train and validation") as caught:
        open_data(DataConfig(path=manifest))
    assert "leave the split column out" in caught.value.fix


def test_given_splits_that_keep_groups_whole_pass(data: Path) -> None:
    manifest = grouped(data, lambda index, row: f"{row['split']} {index * 5 % 3}", split=True)
    source = open_data(DataConfig(path=manifest))
    assert set(source.groups("test") or []) == {"test 0", "test 1", "test 2"}
    assert open_data(DataConfig(path=data)).groups("test") is None


def test_images_without_a_group_among_others_are_refused(data: Path) -> None:
    manifest = grouped(data, lambda index, row: "" if index == 5 else str(index), split=False)
    with pytest.raises(ToolkitError, match="1 of 72 images have no group, such as"):
        open_data(DataConfig(path=manifest))


def test_a_row_without_an_image_is_unreadable(data: Path, tmp_path: Path) -> None:
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(data.rglob("*.png"))]
    labels = [file.parent.name for file in sorted(data.rglob("*.png"))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = {"image": [*images, None], "label": [*labels, labels[0]]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "table")
    source = open_data(DataConfig(path=tmp_path / "table", on_bad_image="skip"))
    assert [skipped["reason"] for skipped in source.skipped] == ["the row holds no image"]


MISSING: list[Any] = [None, float("nan"), "", " ", "nan", "NaN"]


def table_of(folder: Path, labels: list[Any], kind: str) -> Path:
    """A row an image with the labels given, in a format."""
    files = [str(file) for file in sorted((folder / "train").rglob("*.png"))[: len(labels)]]
    if kind == "csv":
        texts = ["" if label is None else str(label) for label in labels]
        return write_csv(folder / "t.csv", [{"path": f, "label": t} for f, t in zip(files, texts, strict=True)])
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"path": files, "label": labels}), folder / "t.parquet")
        return folder / "t.parquet"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    datasets.Dataset.from_dict({"image": files, "label": labels}, features=features).save_to_disk(folder / "set")
    return folder / "set"


@pytest.mark.parametrize("kind", ["csv", "parquet", "string"])
@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_a_missing_label_is_refused_with_its_rows_in_every_format(data: Path, kind: str, missing: Any) -> None:
    if isinstance(missing, float) and kind != "csv":
        labels, kind = [1.0, missing, 2.0, missing, missing, missing], {"string": "float32"}.get(kind, kind)
    else:
        labels = ["a", missing, "b", missing, missing, missing]
    with pytest.raises(ToolkitError, match=r"no label in (train, |all, )?row 2, 4, 5 and 1 more"):
        list_data(DataConfig(path=table_of(data, labels, kind)))


@pytest.mark.parametrize("kind", ["csv", "parquet", "float32", "float64", "int64"])
def test_whole_numbers_read_the_same_in_every_format(data: Path, kind: str) -> None:
    labels: list[Any] = [1, 0, 10, 1] if kind == "int64" else [1.0, 0.0, 10.0, 1.0]
    listing = list_data(DataConfig(path=table_of(data, labels, kind)))
    assert listing.classes == ["0", "1", "10"]
    assert [item.label for item in listing.items] == ["1", "0", "10", "1"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "string"])
def test_labels_that_differ_by_unicode_form_are_one_class_in_every_format(data: Path, kind: str) -> None:
    path = table_of(data, ["caf\u00e9", "cafe\u0301", "b"], kind)
    assert list_data(DataConfig(path=path)).classes == ["b", "caf\u00e9"]
    assert list_data(DataConfig(path=path, classes=["cafe\u0301", "b"])).classes == ["caf\u00e9", "b"]


def test_class_names_of_a_data_set_read_as_labels_and_one_without_a_class_is_refused(data: Path) -> None:
    files = [str(file) for file in sorted((data / "train").rglob("*.png"))[:3]]

    def saved(names: list[str], labels: list[int], to: str) -> DataConfig:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict({"image": files, "label": labels}, features=features).save_to_disk(data / to)
        return DataConfig(path=data / to)

    listing = list_data(saved(["z", "cafe\u0301", "unused"], [0, 1, 1], "one"))
    assert listing.classes == ["z", "caf\u00e9", "unused"]
    for names, labels in ((["a", "b"], [0, -1, 1]), (["a", "NaN"], [0, 1, 0])):
        with pytest.raises(ToolkitError, match=r"no label in all, row 2 \("):
            list_data(saved(names, labels, f"{names[1]}"))


def test_a_split_of_an_unknown_name_in_a_data_set_is_refused(data: Path) -> None:
    files = [str(file) for file in sorted((data / "train").rglob("*.png"))[:2]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    part = datasets.Dataset.from_dict({"image": files, "label": ["a", "b"]}, features=features)
    datasets.DatasetDict({"train": part, "holdout": part}).save_to_disk(data / "set")
    with pytest.raises(ToolkitError, match="split 'holdout' is none of"):
        list_data(DataConfig(path=data / "set"))
