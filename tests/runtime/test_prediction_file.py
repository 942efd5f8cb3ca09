"""``toolkit predict --out``: the three kinds of file hold what ``--json`` prints, whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from tiny_bundle import GOLDEN_NAMES
from tiny_graph import LABELS
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.runtime.prediction_file import ROW_GROUP, check_prediction_file, columns, prediction_file, row
from toolkit.text import path_text

SUFFIXES = [".csv", ".jsonl", ".parquet"]


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, with None for what a row does not have."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    with path.open(newline="") as file:
        words = {"path", "error", *(name for name in columns(LABELS, 9) if name.startswith("label"))}
        return [
            {name: (text if name in words else float(text)) if text else None for name, text in entry.items()}
            for entry in csv.DictReader(file)
        ]


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """Images at three depths, one damaged, one of a name that CSV must quote, and a file that is no image."""
    deep = tmp_path / "images" / "a" / "b"
    deep.mkdir(parents=True)
    places = (deep / 'x, "1".png', deep.parent / "1.png", deep.parents[1] / "2.png")
    for name, place in zip(GOLDEN_NAMES, places, strict=True):
        shutil.copyfile(bundle / "golden" / name, place)
    (deep / "bad.png").write_text("no image")
    (deep / "notes.txt").touch()
    return tmp_path / "images"


def predict(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments), "--threads", "1"], standalone_mode=False)
    if isinstance(done.exception, ToolkitError):
        raise done.exception
    return int(done.return_value or done.exit_code), done.stdout


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_at_any_depth_becomes_a_file_with_what_json_prints(
    suffix: str, top_k: int | None, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"predictions{suffix}"
    few = [] if top_k is None else ["--top-k", top_k]
    assert predict(bundle, folder, "--out", out, *few)[0] == 2  # one can't be read, and the others are there
    entries = json.loads(predict(bundle, folder, "--json", *few)[1])["predictions"]
    assert [entry["path"] for entry in entries] == [
        str(folder / name) for name in ("2.png", "a/1.png", "a/b/bad.png", 'a/b/x, "1".png')
    ]
    if suffix == ".jsonl":
        assert read(out) == entries
        return
    names = columns(LABELS, top_k)
    assert read(out) == [dict(zip(names, row(entry, LABELS, top_k), strict=True)) for entry in entries]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("predictions", "."))) == [out.name]


def test_the_columns_of_a_table() -> None:
    labels = ["cat", "dog", "fox"]
    entry = {"path": "x.png", "label": "dog", "probabilities": {"cat": 0.1, "dog": 0.7, "fox": 0.2}}
    probabilities = {"probability of cat": 0.1, "probability of dog": 0.7, "probability of fox": 0.2}
    start = {"path": "x.png", "label": "dog", "probability": 0.7, "error": None}
    assert dict(zip(columns(labels, None), row(entry, labels, None), strict=True)) == start | probabilities
    ranked = start | {"label_2": "fox", "probability_2": 0.2}
    assert dict(zip(columns(labels, 2), row(entry, labels, 2), strict=True)) == ranked
    bad = {"path": "x.png", "error": "no image"}
    assert row(bad, labels, None) == ["x.png", None, None, "no image", None, None, None]
    assert row(bad, labels, 2) == ["x.png", None, None, "no image", None, None]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_path_that_is_no_text_is_written_all_the_same(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"predictions{suffix}"
    with prediction_file(out, LABELS, None) as write:
        write({"path": path_text(Path("/images/caf\udce9.png")), "error": "no image"})
    assert [entry["path"] for entry in read(out)] == ["file:///images/caf%E9.png"]


@pytest.mark.parametrize("images", [0, 1, ROW_GROUP - 1, ROW_GROUP, ROW_GROUP + 1])
def test_a_table_of_any_length_is_whole(images: int, tmp_path: Path) -> None:
    out = tmp_path / "predictions.parquet"
    with prediction_file(out, LABELS, None) as write:
        for number in range(images):
            write({"path": str(number), "error": "no image"})
    assert [entry["path"] for entry in read(out)] == [str(number) for number in range(images)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interruption_leaves_what_was_there(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"predictions{suffix}"
    out.write_text("older")

    def interrupted() -> None:
        with prediction_file(out, LABELS, None) as write:
            write({"path": "1.png", "error": "no image"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("name", "says"), [("x.txt", "not as .txt"), ("x", "without a suffix"), ("d.csv", "folder")])
def test_what_is_no_file_for_predictions_is_refused_before_the_work(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ToolkitError, match=says):
        check_prediction_file(tmp_path / name)


def test_a_full_disk_is_an_error_and_leaves_no_file(small_disk: Path) -> None:
    def fill() -> None:
        with prediction_file(small_disk / "predictions.csv", LABELS, None) as write:
            for _ in range(200):
                write({"path": "x" * 10_000, "error": "no image"})

    with pytest.raises(ToolkitError, match="No space left"):
        fill()
    assert list(small_disk.iterdir()) == []


def test_the_table_has_whole_paths(bundle: Path, tmp_path: Path) -> None:
    deep = tmp_path / "/".join(f"a folder with a long name {number}" for number in range(12))
    deep.mkdir(parents=True)
    image = Path(shutil.copyfile(bundle / "golden" / GOLDEN_NAMES[0], deep / "image.png"))
    assert len(str(image)) > 300
    printed = predict(bundle, image)[1]
    assert str(image) in printed
