"""An archive into shards: every image once, whatever ends the process, and only by the bundle that began."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.lock import TakenError
from toolkit.progress import Progress
from toolkit.runtime.bundle import Bundle
from toolkit.scoring.inputs import Columns, items_of
from toolkit.scoring.options import ScoringOptions
from toolkit.scoring.score import score
from toolkit.scoring.store import Store
from toolkit.serving.classifier import Classifier

SMALL = ScoringOptions(shard_rows=7, threads=1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images in two folders, one of which can't be read, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for number in range(40):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        size = (20 + number % 5, 30, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(place / f"{number:03d}.png")
    (folder / "a" / "004.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("none")
    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(out.glob("part-*.parquet")) for row in pyarrow.parquet.read_table(part).to_pylist()]


def test_rows_are_what_predict_says(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    summary = score(bundle, str(archive), str(tmp_path / "out"), SMALL)
    rows = rows_of(tmp_path / "out")
    paths = sorted((*archive.glob("a/*.png"), *archive.glob("b/*.png")))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    with Classifier.open(bundle, threads=1) as classifier:
        for row, said in zip(rows, classifier.stream(paths, batch_size=7), strict=True):
            if isinstance(said, ToolkitError):
                assert row["label"] is None
                assert row["error"]
                continue
            assert row["label"] == said.label
            for name, value in said.probabilities.items():
                assert row[f"probability of {name}"] == pytest.approx(value, abs=1e-6)
    assert (summary["images"], summary["predicted"], summary["shards"]) == (40, 39, 6)
    assert sum(summary["errors"].values()) == 1
    assert sum(summary["classes"].values()) == 39
    metadata = pyarrow.parquet.read_metadata(tmp_path / "out" / "part-000000.parquet").metadata
    assert metadata[b"bundle_sha256"].decode() == bundle.manifest.manifest_sha256


def test_a_second_call_has_nothing_to_do(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    score(bundle, str(archive), str(tmp_path / "out"), SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    summary = score(bundle, str(archive), str(tmp_path / "out"), SMALL)
    assert summary["resumed"] == 40
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")} == before


def test_a_shard_without_its_marker_is_written_again(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(bundle, str(archive), str(out), SMALL)
    whole = rows_of(out)
    (out / "part-000002.json").unlink()
    (out / "part-000002.parquet").write_bytes(b"half a fi")
    (out / "summary.json").unlink()
    (archive / "c.png").write_bytes(b"comes too late")
    try:
        assert score(bundle, str(archive), str(out), SMALL)["resumed"] == 33
    finally:
        (archive / "c.png").unlink()
    assert rows_of(out) == whole


def test_kills_leave_every_image_exactly_once(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    """Each a SIGKILL at some moment; at last the job is let to its end."""
    out, kills = tmp_path / "out", 0
    command = [sys.executable, "-m", "toolkit", "predict", str(bundle.path), "--input", str(archive)]
    command += ["--out", str(out), "--shard-rows", "2", "--threads", "1"]
    rng = np.random.default_rng(0)
    for _ in range(30):
        parts = len(list(out.glob("part-*.json"))) if out.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        aim = parts + int(rng.integers(0, 3))
        while process.poll() is None and len(list(out.glob("part-*.json")) if out.exists() else []) <= aim:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        if kills == 6 or process.returncode == 2:
            break
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr  # one image can't be read
    assert kills >= 5
    paths = [row["path"] for row in rows_of(out)]
    assert paths == [str(path) for path in sorted((*archive.glob("a/*.png"), *archive.glob("b/*.png")))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"place": "elsewhere"}, "another input"),
        ({"shard_rows": 8}, "other rows a shard"),
        ({"top_k": 1}, "other classes a row"),
        ({"bundle": True}, "another bundle"),
    ],
)
def test_another_job_is_refused(
    change: dict[str, Any], said: str, bundle: Bundle, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score(bundle, str(archive), str(out), SMALL)
    other, place, options = bundle, str(archive), {"shard_rows": 7, "threads": 1}
    if change.pop("bundle", False):
        shutil.copytree(bundle.path, tmp_path / "bundle")
        opened = Bundle(tmp_path / "bundle")
        opened.manifest.created = "2001-01-01T00:00:00+00:00"
        opened.update_manifest()
        other = Bundle(tmp_path / "bundle")
    if change.pop("place", None):
        place = str(archive / "a")
    with pytest.raises(ToolkitError, match=said):
        score(other, place, str(out), ScoringOptions(**(options | change)))


def test_two_jobs_with_one_folder(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom toolkit.scoring.store import Store\n"
        "with Store(sys.argv[1]).held():\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TakenError, match="another job scores into it"):
            score(bundle, str(archive), str(out), SMALL)
    finally:
        other.kill()
        other.wait()
    assert score(bundle, str(archive), str(out), SMALL)["images"] == 40


def test_a_folder_of_other_things_is_left_alone(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ToolkitError, match=r"holds other things, such as thesis\.docx"):
        score(bundle, str(archive), str(tmp_path), SMALL)


def test_a_bundle_that_is_exchanged_midway_ends_the_job(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    opened = Bundle(tmp_path / "bundle")

    class Exchanging(Progress):
        def done(self, count: int, total: int | None = None) -> None:
            if count == 10:
                with (tmp_path / "bundle" / "manifest.json").open("a") as file:
                    file.write("\n")

    with pytest.raises(ToolkitError, match="exchanged while it scored"):
        score(opened, str(archive), str(tmp_path / "out"), SMALL, Exchanging())
    assert (tmp_path / "out" / "part-000000.json").is_file()


def write_shard(path: Path, images: Path, count: int) -> None:
    with tarfile.open(path, "w") as tar:
        for image in sorted(images.glob("b/*.png"))[:count]:
            tar.add(image, image.name)


def test_shards_are_read_in_their_order_and_a_cut_one_to_its_end(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "0.tar", archive, 6)
    write_shard(tmp_path / "shards" / "1.tar", archive, 6)
    content = (tmp_path / "shards" / "1.tar").read_bytes()
    (tmp_path / "shards" / "1.tar").write_bytes(content[: len(content) // 3])
    summary = score(bundle, str(tmp_path / "shards"), str(tmp_path / "out"), SMALL)
    rows = rows_of(tmp_path / "out")
    assert [row["path"].rpartition("/shards/")[2] for row in rows[:2]] == ["0.tar/001.png", "0.tar/003.png"]
    assert "damaged shard" in rows[-1]["error"]
    assert summary["predicted"] == len(rows) - 1 >= 7


def test_globs_manifests_and_files_are_inputs(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    assert len(list(items_of(f"{archive}/a/*.png", bundle))) == 20
    assert len(list(items_of(f"{archive}/**/*.png", bundle))) == 40
    assert [item.path for item in items_of(str(archive / "a" / "000.png"), bundle)] == [str(archive / "a" / "000.png")]
    (tmp_path / "list.csv").write_text(f"file\n{archive / 'b' / '001.png'}\n{archive / 'b' / '003.png'}\n")
    found = list(items_of(str(tmp_path / "list.csv"), bundle, Columns(path="file")))
    assert [Path(item.path).name for item in found] == ["001.png", "003.png"]
    for place, said in ((f"{archive}/*.bmp", "nothing fits"), (str(tmp_path / "nowhere"), "no such file or folder")):
        with pytest.raises(ToolkitError, match=said):
            list(items_of(place, bundle))


def test_a_full_disk_says_so_and_loses_no_row(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    """Behind a limit on the size of files, as a quota sets it."""
    command = [sys.executable, "-m", "toolkit", "predict", str(bundle.path), "--input", str(archive), "--threads", "1"]
    command += ["--out", str(tmp_path / "out"), "--shard-rows", "40"]
    limited = (
        "import os, resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit := int(sys.argv[1]), limit))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    score(bundle, str(archive), str(tmp_path / "whole"), ScoringOptions(shard_rows=40))
    listing = (tmp_path / "whole" / "inputs.parquet").stat().st_size
    for limit, where in ((1000, "inputs.parquet"), (listing + 200, "part-000000.parquet")):
        asked = [sys.executable, "-c", limited, str(limit), *command]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.search(rf"can't write here.*{where}", done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
    assert len({row["path"] for row in rows_of(tmp_path / "out")}) == len(rows_of(tmp_path / "out")) == 40


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls_are_read_and_written(scheme: str, bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    if scheme == "memory":
        fsspec = pytest.importorskip("fsspec")
        system, root = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
        for path in archive.glob("b/*.png"):
            system.pipe_file(f"{root}/in/{path.name}", path.read_bytes())
        place, out = f"{root}/in", f"{root}/out"
    else:
        place, out = f"file://{archive}/b", f"file://{tmp_path}/out"
    assert score(bundle, place, out, SMALL)["predicted"] == 20
    assert score(bundle, place, out, SMALL)["resumed"] == 20
    store = Store(out)
    assert json.loads(store.read("summary.json") or b"")["shards"] == 3
    assert "lock.json" not in store.names()
    if scheme == "memory":
        store.write_json("lock.json", {"owner": "another", "process": "1 on a machine", "time": time.time()})
        with pytest.raises(TakenError, match="another job"):
            score(bundle, place, out, SMALL)
