"""Names of files and labels that steer terminals, are no UTF-8 or too long, from the data to the bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from PIL import Image

from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
NO_UTF8 = os.fsdecode(b"\xff\xfe.png")
ESCAPES = "a\x1b[2J\x9b31m\n\u202e.png"
LABEL = "r\x1b]0;x\x07e|d [red] <b> $x$ \n*"
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def toolkit(in_process: Callable[..., subprocess.CompletedProcess[str]]) -> Run:
    """Runs the command and checks what holds for every end: valid UTF-8, no escapes, no traceback, JSON alone.

    The verbs that import PyTorch, which takes seconds, run in this process.
    """

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        if arguments[0] in ("train", "export", "parity"):
            here = in_process(*arguments)
            done = subprocess.CompletedProcess(here.args, here.returncode, here.stdout.encode(), here.stderr.encode())
        else:
            command = [sys.executable, "-m", "toolkit", *map(os.fsencode, map(str, arguments))]
            done = subprocess.run(command, capture_output=True, timeout=300, check=False, cwd=ROOT)
        for words in (done.stdout.decode(), done.stderr.decode()):
            assert [each for each in words if not each.isprintable() and each != "\n"] == []
            assert "Traceback" not in words
            assert "\ufffd" not in words  # in place of bytes that are no UTF-8
        assert done.returncode == code, done.stderr.decode()
        if "--json" in arguments:
            json.loads(done.stdout)
        return done

    return run


@pytest.fixture
def data(color_data: Path, tmp_path: Path) -> Path:
    """The colours, with hostile names of the folder, a class, files, a duplicate and an image that can't be read."""
    folder = Path(shutil.copytree(color_data, tmp_path / "colors\x1b[31m"))
    for split in folder.iterdir():
        (split / "red").rename(split / LABEL)
        first, second, *_ = sorted((split / "blue").iterdir())
        first.rename(split / "blue" / NO_UTF8)
        second.rename(split / "blue" / ESCAPES)
    (folder / "val" / "green" / os.fsdecode(b"bad\xf0.png")).write_bytes(b"no image")
    shutil.copyfile(folder / "train" / "blue" / NO_UTF8, folder / "test" / "blue" / os.fsdecode(b"copy\xfd.png"))
    return folder


def file_of(text: str) -> Path:
    """The file that an output names."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(text).path))) if text.startswith("file://") else Path(text)


def test_from_the_data_to_the_predictions(
    data: Path, make_recipe: Callable[..., Recipe], toolkit: Run, tmp_path: Path
) -> None:
    assert b"bad%F0.png" in toolkit("data", "check", data, code=1).stdout
    report = json.loads(toolkit("data", "check", data, "--json", code=1).stdout)
    assert [file_of(each["path"]).read_bytes() for each in report["unreadable"]] == [b"no image"]
    (twins,) = report["duplicates_across_splits"]
    assert sorted(map(file_of, twins)) == sorted(
        [data / "train" / "blue" / NO_UTF8, data / "test" / "blue" / os.fsdecode(b"copy\xfd.png")]
    )
    assert LABEL.strip() in [name.strip() for name in report["classes"]]

    recipe, run, bundle = tmp_path / "recipe.yaml", tmp_path / "run\x1b[2J", tmp_path / "bundle\x1b[2J"
    sections = {"data": {"path": data, "on_bad_image": "skip"}, "training": {"epochs": 1}}
    recipe.write_text(make_recipe(**sections, tracking={"trackers": ["tensorboard", "csv"], "plots": True}).as_yaml())
    trained = toolkit("train", recipe, "--out", run)
    assert b"Glyph" not in trained.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert [file_of(each["path"]).read_bytes() for each in summary["skipped_images"]] == [b"no image"]
    rows = (run / "test_predictions.csv").read_bytes().decode()
    assert "%FF%FE.png" in rows

    assert b"\\x1b[2J" in toolkit("export", "--onnx", run, "--out", bundle).stdout
    card, page = ((bundle / name).read_bytes().decode() for name in ("MODEL_CARD.md", "report.html"))
    assert "\\<b\\>" in card
    assert "<b>" not in card
    assert "&lt;b&gt;" in page
    for words in (card, page):
        assert "\x1b" not in words

    images = data / "test" / "blue"
    toolkit("predict", bundle, images)
    toolkit("parity", bundle, "--images", images)
    entries = json.loads(toolkit("predict", bundle, images, "--json").stdout)["predictions"]
    assert {file_of(entry["path"]) for entry in entries} == set(images.iterdir())
    copied = Path(shutil.copytree(bundle, tmp_path / os.fsdecode(b"bundle\xff\x1b[2J")))
    toolkit("verify", copied, "--json")
    toolkit("predict", copied, images / NO_UTF8, images / ESCAPES)


def test_shards_keep_images_whose_names_are_no_utf8(data: Path, toolkit: Run, tmp_path: Path) -> None:
    (data / "val" / "green" / os.fsdecode(b"bad\xf0.png")).unlink()
    toolkit("data", "shard", data, tmp_path / "shards")
    packed, original = (
        json.loads(toolkit("data", "check", path, "--json", code=1).stdout) for path in (tmp_path / "shards", data)
    )
    assert packed["counts"] == original["counts"]


def test_shards_of_others_with_such_members(toolkit: Run, tmp_path: Path) -> None:
    for name, color in ((os.fsdecode(b"\xff\xfe"), "red"), ("b\x1b[2J", "blue")):
        Image.new("RGB", (20, 20), color).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.cls").write_text(color)
    names = [os.fsencode(path.name) for path in tmp_path.iterdir()]
    subprocess.run(["tar", "-cf", "x.tar", *names], check=True, cwd=tmp_path)
    scanned = json.loads(toolkit("data", "check", tmp_path / "x.tar", "--json", code=1).stdout)
    toolkit("data", "index", tmp_path / "x.tar")
    index = (tmp_path / "x.tar.index.jsonl").read_bytes().decode()
    assert [json.loads(line)["name"] for line in index.splitlines()[1:]] != []
    assert json.loads(toolkit("data", "check", tmp_path / "x.tar", "--json", code=1).stdout) == scanned


@pytest.mark.parametrize("verb", ["check", "shard", "train"])
def test_a_class_that_is_no_utf8_is_refused_by_name(
    verb: str, color_data: Path, make_recipe: Callable[..., Recipe], toolkit: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(color_data, tmp_path / "colors"))
    for split in folder.iterdir():
        (split / "red").rename(split / os.fsdecode(b"r\xe9d\x1b"))
    (tmp_path / "recipe.yaml").write_text(make_recipe(data={"path": folder}).as_yaml())
    out = tmp_path / "out"
    commands = {
        "check": ("data", "check", folder),
        "shard": ("data", "shard", folder, out),
        "train": ("train", tmp_path / "recipe.yaml", "--out", out),
    }
    said = toolkit(*commands[verb], code=2).stderr.decode().splitlines()
    assert len(said) == 1
    assert "class names must be UTF-8, and these are not: r\\xe9d\\x1b" in said[0]
    assert not out.exists()


@pytest.mark.parametrize("name", [b"run\xff", b"below\xff/run"])
def test_an_output_that_is_no_utf8_is_refused_before_anything_is_written(
    name: bytes, make_recipe: Callable[..., Recipe], color_data: Path, toolkit: Run, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(make_recipe().as_yaml())
    out = tmp_path / os.fsdecode(name)
    for command in (("train", tmp_path / "recipe.yaml", "--out"), ("data", "shard", color_data)):
        said = toolkit(*command, out, code=2).stderr.decode().splitlines()
        assert len(said) == 1
        assert "must be UTF-8" in said[0]
        assert "\\xff" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_what_cannot_be_read_costs_nothing_but_itself(
    finished_bundle: Path, color_data: Path, make_recipe: Callable[..., Recipe], toolkit: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(color_data, tmp_path / "colors"))
    (folder / "train" / "red" / "loop.png").symlink_to("loop.png")
    (folder / "train" / "red" / "gone.png").symlink_to("nowhere.png")
    (folder / "train" / "red" / "memory.png").symlink_to("/proc/self/mem")  # a plain file that nobody can read at 0
    long = tmp_path / ("n" * 300 + ".png")
    (tmp_path / "rows.csv").write_text(
        f"path,label\n{long},red\n" + "".join(f"{path},{path.parent.name}\n" for path in color_data.rglob("*.png"))
    )
    images: list[Any] = [folder / "train" / "red", long, tmp_path / "a" / "\u202e.png"]
    entries = json.loads(toolkit("predict", finished_bundle, *images, "--json", code=2).stdout)["predictions"]
    failed = {Path(entry["path"]).name for entry in entries if "error" in entry}
    assert failed == {"loop.png", "gone.png", "memory.png", long.name, "\u202e.png"}
    assert len(entries) - len(failed) == 12
    said = toolkit("predict", finished_bundle, *images, code=2).stderr.decode().splitlines()
    assert len(said) == 1
    recipe, rows = tmp_path / "recipe.yaml", tmp_path / "rows.csv"
    for source, unreadable in ((folder, 3), (rows, 1)):
        report = json.loads(toolkit("data", "check", source, "--json", code=1).stdout)
        assert len(report["unreadable"]) == unreadable
    sections = {"data": {"path": rows, "on_bad_image": "skip"}, "training": {"epochs": 1}}
    recipe.write_text(make_recipe(**sections).as_yaml())
    toolkit("train", recipe, "--out", tmp_path / "run")
    recipe.write_text(make_recipe(data={"path": folder}).as_yaml())
    assert len(toolkit("train", recipe, "--out", tmp_path / "no", code=2).stderr.splitlines()) == 1


def deep_folder(root: Path, name: str, levels: int) -> None:
    """Folders below one another, deeper than any path may name them."""
    handle = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)


@pytest.mark.parametrize(("name", "levels"), [("d" * 250, 20), ("d", 1500)], ids=["long", "deep"])
@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_folder_that_cannot_be_walked_is_one_line(
    name: str, levels: int, finished_bundle: Path, color_data: Path, toolkit: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(color_data, tmp_path / "colors"))
    deep_folder(folder / "train" / "red", name, levels)
    try:
        for command in (("predict", finished_bundle, folder), ("data", "check", folder)):
            said = toolkit(*command, code=2).stderr.decode().splitlines()
            assert len(said) == 1
            assert "File name too long" in said[0] or "nested" in said[0]
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # shutil.rmtree recurses
