from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import killed_at_lines

from toolkit.files import recover_interrupted_writes

PARTS = ("manifest.json", "a.bin", "b.bin", "deep/c.bin")
REPLACE = """
import itertools, shutil, sys, tempfile
from pathlib import Path
from toolkit import files
root, parts = Path(sys.argv[1]), sys.argv[2].split(",")

def replace(target, version, durable=True):
    with files.staged_folder(target, what="bundle", marker=parts[0], replace=True, durable=durable) as stage:
        for part in parts:
            (stage / part).parent.mkdir(exist_ok=True)
            (stage / part).write_text(f"{version}\\n" * 1000)
"""
AGAIN_AND_AGAIN = """
for version in itertools.count(int(sys.argv[3])):
    replace(root / "best", version)
    print(version, flush=True)
"""
KILLED_AT_EACH_LINE = """
from killed_at_lines import killed_at_each_line
killed_at_each_line(
    lambda line: root / f"{line:04d}" / "best",
    lambda target: replace(target, 0, durable=False),
    lambda target: replace(target, 1),
    [files, shutil, tempfile],
)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_tree(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)


def test_an_old_folder_comes_back_if_its_successor_never_took_its_place(tmp_path: Path) -> None:
    write_tree(tmp_path, ".best.old-k3_x/a", ".best.old-k3_x/deep/b", ".best.partial-k3_x/a")
    recover_interrupted_writes(tmp_path)
    assert names_in(tmp_path) == ["best", "best/a", "best/deep", "best/deep/b"]
    assert (tmp_path / "best" / "a").read_text() == ".best.old-k3_x/a"


def test_an_old_folder_goes_if_its_successor_took_its_place(tmp_path: Path) -> None:
    write_tree(tmp_path, ".best.old-k3_x/a", ".best.old-k3_x/deep/b", "best/a")
    recover_interrupted_writes(tmp_path)
    assert names_in(tmp_path) == ["best", "best/a"]
    assert (tmp_path / "best" / "a").read_text() == "best/a"


def test_each_old_folder_is_judged_by_its_own_successor(tmp_path: Path) -> None:
    write_tree(tmp_path, ".step-1.old-aaaa/f", ".step-2.old-bbbb/f", "step-2/f", ".v1.0.old-x.old-cccc/f")
    recover_interrupted_writes(tmp_path)
    read = {path.name: (path / "f").read_text() for path in tmp_path.iterdir()}
    assert read == {"step-1": ".step-1.old-aaaa/f", "step-2": "step-2/f", "v1.0.old-x": ".v1.0.old-x.old-cccc/f"}


def test_half_written_files_and_folders_go_and_all_else_stays(tmp_path: Path) -> None:
    stays = [".hidden", ".hidden-folder/.a.partial-1", ".lock", "a.old-1", "b.partial-1", "run/.c.partial-1", "x/y"]
    write_tree(tmp_path, *stays)
    before = names_in(tmp_path)
    write_tree(tmp_path, ".recipe.yaml.partial-8ad", ".best.partial-k3_x/deep/a", ".r.safetensors.partial-1234")
    recover_interrupted_writes(tmp_path)
    assert names_in(tmp_path) == before
    assert all((tmp_path / file).read_text() == file for file in stays)


def test_healing_what_is_sound_empty_or_not_there_changes_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, "best/a", "empty/.lock")
    before = names_in(tmp_path)
    for folder in (tmp_path, tmp_path / "best", tmp_path / "empty", tmp_path / "nowhere"):
        recover_interrupted_writes(folder)
        recover_interrupted_writes(folder)
    assert names_in(tmp_path) == before


def version_of(folder: Path) -> int:
    """The version of a folder, all of whose parts are whole and of that version."""
    (text,) = {(folder / part).read_text() for part in PARTS}
    version = int(text.partition("\n")[0])
    assert text == f"{version}\n" * 1000
    return version


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", REPLACE + script, *map(str, arguments)]


def test_a_folder_outlives_kills_at_any_moment_of_its_replacing(tmp_path: Path) -> None:
    """What was reported as done before the kill, or the version after it, is there and whole."""
    write_tree(tmp_path, ".lock")
    chance, done = random.Random(0), 0
    for _ in range(15):
        again = command(AGAIN_AND_AGAIN, tmp_path, ",".join(PARTS), done + 1)
        with subprocess.Popen(again, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported = [process.stdout.readline()]
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            reported += process.stdout.readlines()
        recover_interrupted_writes(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "best"}
        done = version_of(tmp_path / "best")
        assert done - int(reported[-1]) in (0, 1)


def test_a_folder_outlives_a_kill_at_each_line_of_its_replacing(tmp_path: Path) -> None:
    killing = command(KILLED_AT_EACH_LINE, tmp_path, ",".join(PARTS))
    subprocess.run(killing, check=True, env=killed_at_lines.environment())
    versions = []
    for folder in sorted(tmp_path.iterdir()):
        recover_interrupted_writes(folder)
        assert [path.name for path in folder.iterdir()] == ["best"]
        versions.append(version_of(folder / "best"))
    assert set(versions) == {0, 1}
    assert versions == sorted(versions)
