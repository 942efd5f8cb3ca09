"""Shards of an object store become shards on a disk: S3 by a server of moto's, and stores that err."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from counted import Counted
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from toolkit.data.remote import ATTEMPTS, _file_system
from toolkit.data.shard_store import copy_shards
from toolkit.data.sharding import write_shards
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

ROOT = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


class Faltering(MemoryFileSystem):
    """A store whose answers fail, or end early, as often as ``failing`` says of a name."""

    protocol = "faltering"
    failing: ClassVar[Counter[str]] = Counter()
    short: ClassVar[set[str]] = set()
    read: ClassVar[Counter[str]] = Counter()

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        name = rpath.rpartition("/")[2]
        self.read[name] += 1
        if self.failing[name]:
            self.failing[name] -= 1
            raise OSError("503 Slow Down")
        content = self.cat_file(rpath)
        Path(lpath).write_bytes(content[:-1] if name in self.short else content)


@pytest.fixture(scope="module")
def shards(color_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "shards"
    write_shards(DataConfig(path=color_data), folder, images_per_shard=20)
    return folder


def fill(url: str, shards: Path) -> Any:
    system = fsspec.filesystem(url.partition("://")[0], skip_instance_cache=True)
    for path in shards.iterdir():
        system.pipe_file(f"{url}/{path.name}", path.read_bytes())
    return system


@pytest.fixture
def store(shards: Path) -> Iterator[str]:
    fsspec.register_implementation("faltering", Faltering, clobber=True)
    for counted in (Faltering.failing, Faltering.short, Faltering.read):
        counted.clear()
    system = fill("faltering://archive", shards)
    yield "faltering://archive"
    system.rm("faltering://archive", recursive=True)


def forget_connections() -> None:
    """Of a server that other tests, or this one, started."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    _file_system.cache_clear()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_bucket_becomes_the_shards_that_it_was_filled_with(shards: Path, tmp_path: Path) -> None:
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server.start()
    forget_connections()
    host, port = server.get_host_and_port()
    config = DataConfig(path=tmp_path / "copies", store="s3://packed/digits/")
    try:
        with pytest.MonkeyPatch.context() as patched:
            for key, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
                patched.setenv(key, value)
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("packed")
            system = fill("s3://packed/digits", shards)
            source = open_data(config)
            assert contents(tmp_path / "copies") == contents(shards)
            assert copy_shards(config) == 0
            first = sorted(shards.glob("*.tar"))[0]
            system.pipe_file(f"packed/digits/{first.name}", first.read_bytes())  # another time, the same content
            assert copy_shards(config) == 0
            patched.setenv("AWS_MAX_ATTEMPTS", "1")
            patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nothing answers
            forget_connections()
            with pytest.raises(ToolkitError, match="can't be listed: Could not connect"):
                copy_shards(config)
    finally:
        forget_connections()
        server.stop()
    local = open_data(DataConfig(path=shards))
    assert source.fingerprint == local.fingerprint
    assert [image.read() for image in source.splits["train"]] == [image.read() for image in local.splits["train"]]


def test_errors_are_tried_again_and_then_name_the_object(store: str, shards: Path, tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "copies", store=store)
    Faltering.failing.update({"train-00000.tar": ATTEMPTS - 1, "test-00000.tar": ATTEMPTS})
    with pytest.raises(ToolkitError, match="503 Slow Down") as caught:
        copy_shards(config)
    assert caught.value.where == f"{store}/test-00000.tar"
    assert not list((tmp_path / "copies").glob(".*"))
    copied, seen = len(contents(tmp_path / "copies")), Counted()
    assert copy_shards(config, seen) == len(contents(shards)) - copied
    assert contents(tmp_path / "copies") == contents(shards)
    assert Faltering.read["train-00000.tar"] == ATTEMPTS


def test_an_answer_that_ends_early_is_no_copy(store: str, tmp_path: Path) -> None:
    Faltering.short.add("train-00001.tar")
    with pytest.raises(ToolkitError, match=r"ended after [\d,]+ of") as caught:
        copy_shards(DataConfig(path=tmp_path / "copies", store=store))
    assert caught.value.where == f"{store}/train-00001.tar"
    assert not (tmp_path / "copies" / "train-00001.tar").exists()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"cut"), Path.unlink])
def test_a_copy_that_was_lost_or_cut_is_made_again(
    damage: Callable[[Path], object], store: str, shards: Path, tmp_path: Path
) -> None:
    config = DataConfig(path=tmp_path / "copies", store=store)
    copy_shards(config)
    damage(tmp_path / "copies" / "train-00000.tar")
    assert copy_shards(config) == 1
    assert contents(tmp_path / "copies") == contents(shards)


def test_an_object_that_changed_in_the_store_is_copied_again(store: str, shards: Path, tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "copies", store=store)
    copy_shards(config)
    about = (shards / "dataset.json").read_bytes()
    fsspec.filesystem("faltering").pipe_file(f"{store}/dataset.json", about[:-1] + b" ")
    assert copy_shards(config) == 1
    assert (tmp_path / "copies" / "dataset.json").read_bytes() == about[:-1] + b" "


def test_processes_of_one_machine_copy_once(shards: Path, tmp_path: Path) -> None:
    config = f"DataConfig(path={str(tmp_path / 'copies')!r}, store={shards.as_uri()!r})"
    script = f"from toolkit.data.shard_store import *; print(copy_shards({config}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    counts = sorted(int(process.communicate(timeout=120)[0]) for process in processes)
    assert counts == [0, len(contents(shards))]
    assert contents(tmp_path / "copies") == contents(shards)


def test_what_would_be_trained_on_unseen_is_refused(store: str, shards: Path, tmp_path: Path) -> None:
    config = DataConfig(path=tmp_path / "copies", store=store)
    copy_shards(config)
    (tmp_path / "copies" / "train-00009.tar").write_bytes((shards / "train-00000.tar").read_bytes())
    with pytest.raises(ToolkitError, match=r"doesn't have: train-00009\.tar"):
        copy_shards(config)
    (tmp_path / "copies" / "train-00009.tar").unlink()
    with pytest.raises(ToolkitError, match="copies here are of faltering://archive, and not of"):
        copy_shards(config.model_copy(update={"store": "faltering://other"}))
    record = tmp_path / ".copies.store" / "copies.json"
    record.write_text(json.dumps({"store": 3}))
    with pytest.raises(ToolkitError, match="damaged record of copies"):
        copy_shards(config)


def test_a_store_without_shards_and_a_place_that_is_no_url_are_refused(store: str, tmp_path: Path) -> None:
    for url in (f"{store}/nothing", "faltering://nowhere"):
        with pytest.raises(ToolkitError, match=r"no shard \(\.tar\) lies there|can't be listed") as caught:
            copy_shards(DataConfig(path=tmp_path / "copies", store=url))
        assert caught.value.where == url
    for wrong in ({"store": "bucket/folder"}, {"store": store, "format": "folder"}):
        with pytest.raises(ValidationError):
            DataConfig.model_validate({"path": tmp_path} | wrong)
