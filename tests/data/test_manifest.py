from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from toolkit.data.check import check_data
from toolkit.data.listing import UNSPLIT, WholeFile
from toolkit.data.manifest import list_manifest
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import ColumnsConfig, DataConfig

COLUMNS = ColumnsConfig()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def parquet_of(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_paths_start_at_the_manifests_folder(tmp_path: Path) -> None:
    text = "path,label\nimages/a.png,cat\n/elsewhere/b.png,dog\n"
    items = list_manifest(written(tmp_path / "m.csv", text), COLUMNS)
    places = [tmp_path / "images" / "a.png", Path("/elsewhere/b.png")]
    assert [(item.path, item.content, item.label) for item in items] == [
        (place, WholeFile(str(place)), label) for place, label in zip(places, ("cat", "dog"), strict=True)
    ]
    assert {(item.split, item.group) for item in items} == {(UNSPLIT, "")}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    text = "\ufefffile;x\n"
    text = "\ufefffile,finding,set,patient,age\na.png, benign ,val,7,50\nb.png,malign,TRAIN,8,60\n"
    columns = ColumnsConfig(path="file", label="finding", split="set", group="patient")
    items = list_manifest(written(tmp_path / "m.csv", text), columns)
    assert [(item.label, item.split, item.group) for item in items] == [
        ("benign", "validation", "7"),
        ("malign", "train", "8"),
    ]


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], ["0", "1"]], ids=str)
def test_numbers_are_labels_however_they_are_stored(tmp_path: Path, labels: list[Any]) -> None:
    manifest = parquet_of(tmp_path / "m.parquet", {"path": ["a.png", "b.png"], "label": labels})
    assert [item.label for item in list_manifest(manifest, COLUMNS)] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "column 'path' is missing; there are: none"),
        ("path,class\na.png,b\n", "column 'label' is missing; there are: path, class"),
        ("path,label\n", "the manifest has no rows"),
        ("path,label\na.png,cat\nb.png,\n", "no label in row 2"),
        ("path,label\na.png,cat\nb.png,NaN\nc.png\n", "no label in row 2, 3"),
        ("path,label\na.png,nan\nb.png,nan\nc.png,nan\nd.png,nan\n", "no label in row 1, 2, 3 and 1 more"),
        ("path,label\n,cat\n", "no path in row 1"),
        ("path,label\na.png,cat\n./a.png,dog\n", "the same path more than once in row 1, 2"),
        ("path,label\na.png,cat,7\n", "more values than columns in row 1"),
        ("path,label,split\na.png,cat,train\nb.png,cat,\n", "no split, or one that is not .* in row 2"),
        ("path,label,split\na.png,cat,holdout\n", r"no split, or one that is not .* \(holdout\), in row 1"),
        ('path,label\n"a.png,cat\n', "can't read the manifest: unexpected end of data"),
    ],
)
def test_a_damaged_manifest_says_which_rows(tmp_path: Path, text: str, what: str) -> None:
    path = written(tmp_path / "m.csv", text)
    with pytest.raises(ToolkitError, match=what) as caught:
        list_manifest(path, COLUMNS)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_labels_of_a_parquet_file_are_found(tmp_path: Path, missing: Any) -> None:
    manifest = parquet_of(tmp_path / "m.parquet", {"path": ["a.png", "b.png"], "label": [1.0, missing]})
    with pytest.raises(ToolkitError, match="no label in row 2"):
        list_manifest(manifest, COLUMNS)


@pytest.mark.parametrize(("name", "content"), [("m.parquet", b"PAR1 not"), ("m.csv", b"path,label\n\xff\xfe,a\n")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ToolkitError, match="can't read the manifest"):
        list_manifest(tmp_path / name, COLUMNS)


def test_files_that_are_not_there_are_named_or_skipped_and_counted(tmp_path: Path, color_data: Path) -> None:
    files = sorted(color_data.rglob("*.png"))
    rows = [f"{file},{file.parent.name}\n" for file in files]
    manifest = written(tmp_path / "m.csv", f"path,label\n{''.join(rows)}gone.png,red\nlost.png,blue\n")
    with pytest.raises(ToolkitError, match=r"No such file or directory \(and 1 more\)") as caught:
        open_data(DataConfig(path=manifest))
    assert caught.value.where == str(tmp_path / "gone.png")
    source = open_data(DataConfig(path=manifest, on_bad_image="skip"))
    assert [skipped["path"] for skipped in source.skipped] == [
        str(tmp_path / name) for name in ("gone.png", "lost.png")
    ]
    assert sum(map(len, source.splits.values())) == len(files)
    report = check_data(DataConfig(path=manifest))
    assert report["unreadable"] == source.skipped
    assert "2 unreadable files" in report["problems"]


@pytest.mark.parametrize("name", ["~no-such-user/a.png", "~a.png", "a\0.png"])
def test_a_name_that_no_system_resolves_is_an_image_that_is_not_there(
    tmp_path: Path, color_data: Path, name: str
) -> None:
    rows = [f"{file},{file.parent.name}\n" for file in color_data.rglob("*.png")]
    manifest = written(tmp_path / "m.csv", f"path,label\n{''.join(rows)}{name},red\n")
    assert [entry["path"] for entry in check_data(DataConfig(path=manifest))["unreadable"]] == [str(tmp_path / name)]
    source = open_data(DataConfig(path=manifest, on_bad_image="skip"))
    assert [skipped["path"] for skipped in source.skipped] == [str(tmp_path / name)]


def test_a_file_whose_name_begins_with_a_tilde_is_found(tmp_path: Path) -> None:
    items = list_manifest(written(tmp_path / "m.csv", "path,label\n~a.png,cat\n"), COLUMNS)
    assert items[0].path == tmp_path / "~a.png"


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="column 'label' stands there twice"):
        list_manifest(written(tmp_path / "m.csv", "path,label,label\na.png,cat,dog\n"), COLUMNS)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = parquet_of(tmp_path / "m.parquet", {"path": ["a.png"], "label": ["cat"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ToolkitError, match="pyarrow is not installed") as caught:
        list_manifest(manifest, COLUMNS)
    assert "clip-toolkit[data]" in caught.value.fix
