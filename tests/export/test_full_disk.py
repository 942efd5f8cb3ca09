"""Places where a bundle can't be written: one line, and nothing is left there."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.bundle import export_bundle
from toolkit.cli.main import app
from toolkit.command import run
from toolkit.errors import ToolkitError
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle

KB = 1000
one_family = pytest.mark.parametrize("finished_run", ["clip"], indirect=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished_run: Path) -> Any:
    """``toolkit export`` of the run to a path: its exit code and its lines on stderr."""

    def call(out: Path, *more: str) -> tuple[Any, list[str]]:
        monkeypatch.setattr("sys.argv", ["toolkit", "export", "--onnx", str(finished_run), "--out", str(out), *more])
        with pytest.raises(SystemExit) as end:
            run(app)
        return end.value.code, capsys.readouterr().err.splitlines()

    return call


@one_family
@pytest.mark.parametrize(
    "free", [*(0, 50, 200, 400, 600), *(pytest.param(free, marks=pytest.mark.slow) for free in (10, 100, 300, 500))]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    free: int, small_disk: Path, export: Callable[..., Any], finished_bundle: Path
) -> None:
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(2**20 - free * KB))
    before = sorted(small_disk.iterdir())
    code, said = export(small_disk / "bundle")
    if code == 0:  # there was room
        assert free * KB > size_of(finished_bundle)
        assert Bundle(small_disk / "bundle").differences() == []
        return
    assert (code, len(said)) == (2, 1), said
    assert "No space left on device" in said[0]
    assert str(small_disk / "bundle") in said[0]
    assert sorted(small_disk.iterdir()) == before


@one_family
@pytest.mark.parametrize("most", [0, 1 * KB, 20 * KB, 100 * KB])
def test_a_limit_on_the_size_of_files_is_one_line(most: int, tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / "here").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        with pytest.raises(ToolkitError, match="File too large"):
            export_bundle(Run(finished_run), tmp_path / "here" / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("mine")
    deep = tmp_path
    for _ in range(20):
        deep = deep / ("d" * 250)
    return {
        "a dangling link": tmp_path / "dangling",
        "a link to itself": tmp_path / "loop",
        "below a dangling link": tmp_path / "dangling" / "bundle",
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "bundle",
        "a name of 300 letters": tmp_path / ("n" * 300),
        "a name of 250 letters, which leaves none for the stage": tmp_path / ("n" * 250),
        "a path of 5,000 letters": deep,
        "a device": Path("/dev/full"),
        "below a device": Path("/dev/full/bundle"),
        "in /proc": Path("/proc/bundle"),
    }


@one_family
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_a_place_that_can_hold_no_bundle_is_one_line(
    force: tuple[str, ...], export: Callable[..., Any], places: dict[str, Path], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    for what, place in places.items():
        code, said = export(place, *force)
        assert (code, len(said)) == (2, 1), (what, said)
        assert len(said[0]) < 6000
        assert sorted(tmp_path.iterdir()) == before, what
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["train", pytest.param("digits", marks=pytest.mark.slow), "shard", "copy"])
def test_other_verbs_that_write_say_so_too(
    verb: str,
    places: dict[str, Path],
    make_recipe: Callable[..., Any],
    color_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(make_recipe(training={"epochs": 1}).as_yaml())
    before = sorted(tmp_path.iterdir())
    for what, place in places.items():
        commands = {
            "train": ["train", str(recipe), "--out", str(place)],
            "digits": ["data", "digits", str(place)],
            "shard": ["data", "shard", str(color_data), str(place)],
            "copy": ["recipes", "copy", "digits", str(place)],
        }
        if verb in ("copy", "train") and "leaves none for the stage" in what:
            continue  # a file and a run are built in place
        monkeypatch.setattr("sys.argv", ["toolkit", *commands[verb]])
        with pytest.raises(SystemExit) as end:
            run(app)
        said = capsys.readouterr().err.splitlines()
        assert (end.value.code, len(said)) == (2, 1), (what, said)
    assert sorted(tmp_path.iterdir()) == before
