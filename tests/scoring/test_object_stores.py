"""Archives in object stores: S3 by a server of moto's, and a store that errs before it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from toolkit.data.remote import ATTEMPTS
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.scoring.options import ScoringOptions
from toolkit.scoring.score import score

SMALL = ScoringOptions(shard_rows=7, threads=1)
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(15):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def bucket(images: Path) -> Iterator[str]:
    """A bucket with the images, behind a server on this machine."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patched.setenv(key, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("archive")
        for path in images.iterdir():
            system.pipe_file(f"archive/in/{path.name}", path.read_bytes())
        yield "s3://archive"
    server.stop()


def test_a_bucket_is_scored_into_a_bucket(bucket: str, bundle: Bundle) -> None:
    summary = score(bundle, f"{bucket}/in", f"{bucket}/out", SMALL)
    assert (summary["predicted"], summary["shards"]) == (15, 3)
    assert score(bundle, f"{bucket}/in", f"{bucket}/out", SMALL)["resumed"] == 15
    system = fsspec.filesystem("s3")
    names = {name.rpartition("/")[2] for name in system.ls("archive/out")}
    assert {"job.json", "summary.json", "part-000002.parquet", "part-000002.json"} <= names
    assert "lock.json" not in names
    with system.open("archive/out/part-000000.parquet") as file:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["path"] for row in rows] == [f"s3://archive/in/{number:03d}.png" for number in range(7)]


def test_a_bucket_that_is_not_there_is_said(bucket: str, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError) as caught:
        score(bundle, "s3://nowhere/in", str(tmp_path / "out"), SMALL)
    assert "s3://nowhere/in" in str(caught.value.where)


class Unsteady(MemoryFileSystem):
    """Answers each file's first requests with an error; ``lost`` files never come."""

    protocol = "unsteady"
    failures: ClassVar[Counter[str]] = Counter()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        name = path.rpartition("/")[2]
        if name.endswith(".png") and (name == "003.png" or self.failures[name] < ATTEMPTS - 2):
            self.failures[name] += 1
            raise OSError("503 Slow Down")
        return bytes(super().cat_file(path, start, end, **options))


def test_errors_of_a_store_are_tried_again_and_counted(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    system = fsspec.filesystem("unsteady")
    for path in images.iterdir():
        system.pipe_file(f"unsteady://in/{path.name}", path.read_bytes())
    summary = score(bundle, "unsteady://in", str(tmp_path / "out"), SMALL)
    assert summary["predicted"] == 14
    assert summary["errors"] == {"503 Slow Down": 1}
    assert summary["retried"] == 14 * (ATTEMPTS - 2) + (ATTEMPTS - 1)


def test_an_unknown_protocol_is_said(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no such file system"):
        score(bundle, "carrier-pigeon://in", str(tmp_path / "out"), SMALL)
