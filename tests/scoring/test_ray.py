"""The same job on a Ray of this machine: the same files, whichever of its processes is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from PIL import Image
from tiny_bundle import write_tiny_bundle

from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.progress import Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.serving import Serving
from toolkit.scoring.job import Job
from toolkit.scoring.options import ScoringOptions
from toolkit.scoring.score import score
from toolkit.serving.classifier import Classifier

ray = pytest.importorskip("ray", reason="Ray is not installed")

IMAGES, SHARD_ROWS = 42, 4
OPTIONS: dict[str, Any] = {"shard_rows": SHARD_ROWS}
LOCAL, ON_RAY = ScoringOptions(**OPTIONS), ScoringOptions(**OPTIONS, engine="ray")
COMMAND = [sys.executable, "-m", "toolkit", "predict"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle that was tuned, to decode JPEGs no larger than it needs them among others."""
    opened = Bundle(write_tiny_bundle(tmp_path_factory.mktemp("tuned") / "bundle"))
    proof = {"images": 1, "source": "here", "top1_agreement": 1, "top1_agreement_at_least": 0, "flip_count": 0}
    proof |= {"largest_flip_margin": None, "max_abs_logit": 0.1, "full_ms": 2.0, "reduced_ms": 1.0}
    expected = {"p50_ms": 1, "p99_ms": 1, "p99_ms_at_most": 1, "throughput_ips": 1, "accuracy_drop": 0}
    expected |= {"accuracy_drop_interval": (0, 0)}
    chosen = {"provider": "cpu", "precision": "fp32", "threads": 1, "batch_size": 3, "machine": {}}
    budget = {"p99_ms": 1, "max_accuracy_drop": 1}
    serving = Serving.model_validate(chosen | {"expected": expected, "budget": budget, "reduced_jpeg": proof})
    write_json(opened.path / "serving.json", serving.model_dump(mode="json"))
    opened.update_manifest()
    return Bundle(opened.path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, one of which can't be read."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for number in range(IMAGES):
        size, suffix = ((20 + number % 5, 30, 3), "png") if number % 2 else ((120 + number, 90, 3), "jpg")
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{number:03d}.{suffix}")
    (folder / "005.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def by_local(bundle: Bundle, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the local engine writes, and its summary."""
    out = tmp_path_factory.mktemp("local") / "out"
    return out, score(bundle, str(archive), str(out), LOCAL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray with room for two sessions and two decoders; its address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it, whose paths may have 107 characters
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 128 << 20}
    ray.init(num_cpus=4, _temp_dir=place, **options)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    shutil.rmtree(place, ignore_errors=True)


def shards_of(out: Path) -> dict[str, bytes]:
    """Rows and markers, by file name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def workers(begin: str) -> list[psutil.Process]:
    """Processes of the Ray that this one started, by what Ray calls them."""
    return [each for each in psutil.Process().children(recursive=True) if each.name().startswith(begin)]


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if not key.endswith("second") and key != "seconds"}


def test_the_bundle_decodes_jpegs_smaller(bundle: Bundle, archive: Path) -> None:
    """Else the files would be the same if Ray's tasks decoded them in full."""
    with Classifier.open(bundle) as classifier:
        full, reduced = bundle.reader(classifier.pool.input), classifier.reader
        image = archive / "000.jpg"
        assert not np.array_equal(full(image)["pixel_values"], reduced(image)["pixel_values"])


class Killing(Progress):
    """Kills processes once, after the first shard."""

    def __init__(self, victims: Callable[[], list[psutil.Process]]) -> None:
        self.victims, self.killed = victims, dict[int, str]()

    def done(self, count: int, total: int | None = None) -> None:
        if not self.killed:
            for process in self.victims():
                self.killed[process.pid] = process.name()
                process.kill()


def test_the_files_are_the_local_engines_though_a_session_is_killed(
    bundle: Bundle, archive: Path, by_local: tuple[Path, dict[str, Any]], cluster: str, tmp_path: Path
) -> None:
    killing = Killing(lambda: [*workers("ray::MapWorker")[:1], *workers("ray::decoded")[:1]])
    summary = score(bundle, str(archive), str(tmp_path / "out"), ON_RAY, killing)
    assert any(name.startswith("ray::MapWorker") for name in killing.killed.values())
    assert not any(map(psutil.pid_exists, killing.killed))
    assert shards_of(tmp_path / "out") == shards_of(by_local[0])
    assert without_times(summary) == without_times(by_local[1])
    assert sum(summary["errors"].values()) == 1


@pytest.mark.slow
def test_after_the_drivers_death_the_same_command_goes_on(
    bundle: Bundle, archive: Path, by_local: tuple[Path, dict[str, Any]], cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(bundle.path), "--input", str(archive), "--out", str(out), "--engine", "ray"]
    command += ["--shard-rows", str(SHARD_ROWS), "--address", cluster]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while driver.poll() is None and not list(out.glob("part-*.json")):
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    said = driver.communicate()[1]
    assert driver.returncode == -signal.SIGKILL, said
    before = shards_of(out)
    assert before
    summary = score(bundle, str(archive), str(out), ON_RAY)
    assert summary["resumed"] >= SHARD_ROWS
    assert shards_of(out) == shards_of(by_local[0])
    paths = [row for part in sorted(out.glob("*-*.parquet")) for row in pyarrow.parquet.read_table(part)["path"]]
    assert [path.as_py() for path in paths] == sorted(map(str, archive.iterdir()))


def test_a_session_decodes_itself_where_no_core_is_left(
    bundle: Bundle, archive: Path, by_local: tuple[Path, dict[str, Any]], cluster: str, tmp_path: Path
) -> None:
    """As after the death of nodes, whose sessions took the cores of others."""
    from toolkit.scoring.ray_workers import Assignment, ShardScorer

    @ray.remote(num_cpus=4)
    class All:
        def there(self) -> bool:
            return True

    taken = All.remote()
    assert ray.get(taken.there.remote())
    try:
        out = tmp_path / "out"
        out.mkdir()
        shutil.copy(by_local[0] / "inputs.parquet", out)
        job = Job.model_validate_json((by_local[0] / "job.json").read_text())
        assignment = Assignment(bundle.path, str(bundle.manifest.manifest_sha256), None, None, 1, None)
        scorer = ShardScorer(assignment, job, str(out), 2, patience=0.1)
        answers = [scorer({"shard": np.array([shard])})["answer"][0] for shard in (0, 1)]
    finally:
        ray.kill(taken)
    assert [answer.rows for answer in answers] == [SHARD_ROWS] * 2
    assert shards_of(out).items() <= shards_of(by_local[0]).items()


def test_another_bundle_on_a_node_is_refused(bundle: Bundle, cluster: str, tmp_path: Path) -> None:
    from toolkit.scoring.ray_workers import Assignment

    with pytest.raises(ToolkitError, match="this node has another bundle"):
        Assignment(bundle.path, "0" * 64, None, None, 1, None).opened()


@pytest.mark.parametrize(
    ("nodes", "threads", "gpu", "found"),
    [
        ([(2, 0)], 4, False, (1, 1, 2)),
        ([(64, 0)] * 2, 4, False, (24, 4, 3)),
        ([(64, 0), (3, 0)], 4, False, (12, 4, 3)),
        ([(96, 8)] * 3, 4, True, (24, 4, 12)),
    ],
)
def test_a_cluster_is_laid_out(
    nodes: list[tuple[int, int]], threads: int, gpu: bool, found: tuple[int, int, int]
) -> None:
    from toolkit.scoring.ray_engine import layout_of

    layout = layout_of(nodes, threads, gpu=gpu)
    assert (layout.sessions, layout.threads, layout.ahead) == found
    taken = layout.sessions * layout.resources["num_cpus"]
    assert taken < sum(cores for cores, _ in nodes)


@pytest.mark.parametrize(("nodes", "gpu", "said"), [([(1, 0)], False, "none is left"), ([(8, 0)], True, "has a GPU")])
def test_a_cluster_that_is_too_small_says_so(nodes: list[tuple[int, int]], gpu: bool, said: str) -> None:
    from toolkit.scoring.ray_engine import layout_of

    with pytest.raises(ToolkitError, match=said):
        layout_of(nodes, 4, gpu=gpu)


def test_a_bad_address_is_one_line(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    command = [*COMMAND, str(bundle.path), "--input", str(archive), "--out", str(tmp_path / "out")]
    command += ["--engine", "ray", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Ray cluster answers: Connection refused (at 127.0.0.1:1); give host:port")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "127.0.0.1:1"}, "an address is of a Ray cluster"),
        ({"engine": "spark"}, "no engine 'spark'"),
    ],
)
def test_a_bad_engine_is_refused(
    options: dict[str, Any], said: str, bundle: Bundle, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match=said):
        score(bundle, str(archive), str(tmp_path / "out"), ScoringOptions(**options))


def test_without_ray_the_extra_is_named(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['ray'] = None; sys.argv = ['toolkit', *sys.argv[1:]]\n"
        "from toolkit.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "predict", str(bundle.path), "--input", str(archive)]
    command += ["--out", str(tmp_path / "out"), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'error: ray is not installed (at --engine ray); pip install "clip-toolkit[ray]"\n'
