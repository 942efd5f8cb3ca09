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
