"""A bundle that is being changed is the old one or the new one, whatever interrupts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import killed_at_lines
import pytest
from tiny_bundle import write_tiny_bundle

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle, write_manifest
from toolkit.runtime.staging import STAGED, STAGING, changing, require_writable
from toolkit.runtime.verify import verify

KILLED_AT_EACH_LINE = """
import shutil, sys
from pathlib import Path
import filelock
from killed_at_lines import killed_at_each_line
from toolkit import files
from toolkit.runtime import manifest, staging
from toolkit.runtime.bundle import Bundle, write_manifest

source, root, empty = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "empty"

def change(bundle):
    with staging.changing(bundle, empty=empty) as folder:
        if empty:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        files.write_bytes(folder / "latency.json", b"{}")
        files.write_bytes(folder / "plots" / "latency.png", b"new")
        (folder / "labels.json").unlink()
        files.write_bytes(folder / "labels.json", (source / "labels.json").read_bytes() + b" ")
        (folder / "obsolete.txt").unlink(missing_ok=True)
        write_manifest(folder, staging.read_manifest(folder)[0])

killed_at_each_line(
    lambda line: root / f"{line:05d}",
    lambda bundle: shutil.copytree(source, bundle),
    change,
    [files, staging, manifest, shutil],
    step=int(sys.argv[4]),
)
"""

STOPPED = """
import sys
from functools import partial
from pathlib import Path
import filelock
from stopped_on_the_way import Stopping
from toolkit.files import write_bytes
from toolkit.runtime import staging
from toolkit.runtime.bundle import write_manifest

bundle = Path(sys.argv[1])

def change(name):
    with staging.changing(bundle) as folder:
        write_bytes(folder / f"{name}.txt", b"")
        write_manifest(folder, staging.read_manifest(folder)[0])

def writer(name, *places):
    return Stopping(partial(change, name), *places)
"""
"""Writers of one bundle, each a process that stops where it is told to."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = write_tiny_bundle(tmp_path / "source")
    (path / "obsolete.txt").write_text("of the last change")
    Bundle(path).update_manifest()
    return path


@pytest.mark.parametrize("start", ["whole", "empty"])
def test_killed_at_every_line_a_bundle_is_the_old_one_or_the_new_one(bundle: Path, start: str, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    command = [sys.executable, "-c", KILLED_AT_EACH_LINE, bundle, copies, start, "11"]
    subprocess.run(command, check=True, env=killed_at_lines.environment())
    states = {"old": 0, "new": 0}
    for copy in copies.iterdir():
        opened = Bundle(copy)
        assert opened.differences() == []
        new = {name: (copy / name).is_file() for name in ("latency.json", "plots/latency.png")}
        assert set(new.values()) == {not (copy / "obsolete.txt").exists()}
        states["new" if new["latency.json"] else "old"] += 1
        assert not (copy / STAGING).exists()
        assert not (copy / STAGED).exists()
    assert min(states.values()) >= 5, states


def test_an_error_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    def fail() -> None:
        with changing(bundle) as folder:
            (folder / "labels.json").unlink()
            (folder / "labels.json").read_bytes()

    with pytest.raises(ToolkitError, match="No such file"):
        fail()
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_two_changes_at_once_are_both_in_the_bundle(bundle: Path) -> None:
    script = """
import sys
from pathlib import Path
from toolkit.files import write_bytes
from toolkit.runtime.bundle import write_manifest
from toolkit.runtime.manifest import read_manifest
from toolkit.runtime.staging import changing
for number in range(10):
    with changing(Path(sys.argv[1])) as folder:
        write_bytes(folder / f"{sys.argv[2]}-{number}.txt", b"")
        write_manifest(folder, read_manifest(folder)[0])
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, bundle, name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert Bundle(bundle).differences() == []
    assert len(list(bundle.glob("[ab]-*.txt"))) == 20
    assert verify(bundle)["passed"]


def written_in_turns(bundle: Path, turns: str) -> set[str]:
    """Let writers take their turns; the changes that the bundle holds afterwards."""
    command = [sys.executable, "-c", STOPPED + turns, bundle]
    subprocess.run(command, check=True, env=killed_at_lines.environment(), timeout=50)
    assert Bundle(bundle).differences() == []
    assert not (bundle / STAGING).exists()
    assert not (bundle / STAGED).exists()
    return {path.stem for path in bundle.glob("?.txt")}


def test_a_writer_that_finds_the_next_change_where_it_saw_the_last_one_waits_for_it(bundle: Path) -> None:
    """The second sees the first's change being taken, and when it comes to lock it there is the third's."""
    turns = """
first = writer("a", (staging._take, "call"))
assert first.stops()
second = writer("b", (staging._locked, "call"), (staging.settle, "exception"))
assert second.stops()
first.goes_on()
assert first.ends_well()
second.goes_on()
assert second.stops()
third = writer("c", (staging._take, "call"))
assert third.stops()
second.goes_on()
third.goes_on()
assert third.ends_well()
assert second.ends_well()
"""
    assert written_in_turns(bundle, turns) == set("abc")


def test_a_writer_that_locks_what_another_is_about_to_remove_is_no_error_of_either(bundle: Path) -> None:
    """The lock's file is gone by then, and the folder not yet."""
    turns = """
first = writer("a", (Path.rmdir, "call"))
assert first.stops()
second = writer("b", (staging._take, "call"))
assert second.stops()
first.goes_on()
assert first.ends_well()
second.goes_on()
assert second.ends_well()
"""
    assert written_in_turns(bundle, turns) == set("ab")


def test_a_writer_that_has_finished_leaves_the_next_one_s_work_alone(bundle: Path) -> None:
    """Its own change is taken, and what is being built in the same place is the second's."""
    turns = """
first = writer("a", (staging._take, "call"), (staging._staging, "call"))
assert first.stops()
first.goes_on()
assert first.stops()
second = writer("b", (write_manifest, "call"))
assert second.stops()
first.goes_on()
assert first.ends_well()
second.goes_on()
assert second.ends_well()
"""
    assert written_in_turns(bundle, turns) == set("ab")


def test_a_planted_change_moves_nothing_through_links(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    manifest = Bundle(bundle).manifest
    content = bundle / STAGED / "bundle"
    (content / "plots").mkdir(parents=True)
    (content / "plots" / "new.png").write_bytes(b"")
    write_manifest(content, manifest)
    (bundle / "plots").symlink_to(outside)
    with pytest.raises(ToolkitError, match="plots is a link"):
        Bundle(bundle)
    assert list(outside.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_found_out_first(bundle: Path) -> None:
    require_writable(bundle)
    read_only = Path("/proc/self/fdinfo")
    if not read_only.is_dir():
        pytest.skip("there is no folder here that nobody can write to")
    with pytest.raises(ToolkitError, match="can't be changed") as refused:
        require_writable(read_only)
    assert "--out FILE" in str(refused.value)


def test_a_folder_with_links_is_refused_before_anything_changes(bundle: Path, tmp_path: Path) -> None:
    (bundle / "plots").symlink_to(tmp_path)

    def replace() -> None:
        with changing(bundle, empty=True):
            pytest.fail("the change began")

    with pytest.raises(ToolkitError, match="'plots': it is a link"):
        replace()
    assert not (bundle / STAGED).exists()
    assert not (bundle / STAGING).exists()
