"""An opened data set is remembered, for as long as every file is what it was; what is recalled is what was opened."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_words import write_label_sets, write_pairs, write_texts
from PIL import Image

from toolkit.data.formats import list_data
from toolkit.data.remembered_source import KEPT, OPENED, RememberedSource
from toolkit.data.samples import Samples, groups_of, labels_of
from toolkit.data.sharding import write_shards
from toolkit.data.source import DataSource, open_data
from toolkit.data.target import target_of
from toolkit.recipe.data import ColumnsConfig, DataConfig
from toolkit.runtime.cache_folder import CACHE, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return cache_folder(OPENED)


def kept(config: DataConfig) -> DataSource:
    """What opening gives, recorded however young the files are."""
    memory = RememberedSource(config, settled=0)
    source = open_data(config)
    memory.keep(vars(source), list_data(config).items)
    return source


def recalled(config: DataConfig) -> DataSource | None:
    fields = RememberedSource(config, settled=0).recall()
    return fields and DataSource(config.path, target=target_of(config.columns), **fields)


def folder(color_data: Path, to: Path) -> DataConfig:
    """With a copy across splits, an image that can't be read, an image of 16 bits and something that is none."""
    shutil.copytree(color_data, to)
    shutil.copyfile(to / "test" / "red" / "00.png", to / "train" / "red" / "copy.png")
    (to / "train" / "red" / "bad.png").write_bytes(b"no image")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(to / "train" / "red" / "deep.png")
    (to / "notes.txt").write_text("left out")
    (to / "dataset.json").write_text('{"name": "colours"}')
    return DataConfig(path=to, on_bad_image="skip")


def no_unicode(color_data: Path, to: Path) -> DataConfig:
    shutil.copytree(color_data, to)
    (to / "train" / "red" / "00.png").rename(to / "train" / "red" / os.fsdecode(b"\xff.png"))
    return DataConfig(path=to)


def no_unicode_above(color_data: Path, to: Path) -> DataConfig:
    root = to / os.fsdecode(b"\xff")
    shutil.copytree(color_data, root)
    return DataConfig(path=root)


def grouped(color_data: Path, to: Path) -> DataConfig:
    shutil.copytree(color_data / "train", to)
    return DataConfig(path=to, group_pattern=r"\d(\d)\.png", test_share=0.2, validation_share=0.2)


def shards(color_data: Path, to: Path) -> DataConfig:
    write_shards(DataConfig(path=color_data), to, images_per_shard=7)
    return DataConfig(path=to)


def one_shard(color_data: Path, to: Path) -> DataConfig:
    shards(color_data, to)
    return DataConfig(path=sorted(to.glob("train*.tar"))[0])


def manifest(color_data: Path, to: Path) -> DataConfig:
    """Whose images lie elsewhere."""
    shutil.copytree(color_data, to / "images")
    rows = [f"{path},{path.parent.name}" for path in sorted((to / "images").rglob("*.png"))]
    (to / "table").mkdir()
    (to / "table" / "rows.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return DataConfig(path=to / "table" / "rows.csv")


def pairs(color_data: Path, to: Path) -> DataConfig:
    to.mkdir()
    return DataConfig(path=write_pairs(to), columns=ColumnsConfig(text="caption"))


def texts(color_data: Path, to: Path) -> DataConfig:
    to.mkdir()
    return DataConfig(path=write_texts(to), columns=ColumnsConfig(path=None, text="caption"))


def label_sets(color_data: Path, to: Path) -> DataConfig:
    to.mkdir()
    return DataConfig(path=write_label_sets(to), columns=ColumnsConfig(labels="labels"))


def numbers(color_data: Path, to: Path) -> DataConfig:
    config = manifest(color_data, to)
    lines = config.path.read_text().splitlines()
    rows = [f"{line.partition(',')[0]},{place / 7}" for place, line in enumerate(lines[1:])]
    config.path.write_text("\n".join(["path,age", *rows]) + "\n")
    return DataConfig(path=config.path, columns=ColumnsConfig(number="age"))


Make = Callable[[Path, Path], DataConfig]
KINDS = (folder, no_unicode, no_unicode_above, grouped, shards, manifest, pairs, texts, label_sets, numbers)


@pytest.mark.parametrize("make", KINDS)
def test_what_is_recalled_is_what_was_opened(make: Make, color_data: Path, tmp_path: Path) -> None:
    config = make(color_data, tmp_path / "data")
    assert recalled(config) is None
    source = kept(config)
    again = recalled(config)
    assert again is not None
    assert type(again.target) is type(source.target)
    assert replace(again, target=source.target) == source
    for split, samples in source.splits.items():
        assert again.order(split) == source.order(split)
        np.testing.assert_array_equal(again.labels(split), source.labels(split))
        assert [each.content for each in again.splits[split]] == [each.content for each in samples]
        assert [type(each.label) for each in again.splits[split]] == [type(each.label) for each in samples]
        assert again.texts(split) == source.texts(split) == [each.text for each in samples]
        assert again.groups(split) == groups_of(list(samples))
        for each in again.splits[split][:2]:
            assert not each.has_image or each.decode().size
    assert again.counts() == source.counts()
    assert (again.has_texts, again.has_images) == (source.has_texts, source.has_images)


@pytest.mark.parametrize("make", KINDS)
def test_columns_are_the_same_as_a_list(make: Make, color_data: Path, tmp_path: Path) -> None:
    source = open_data(make(color_data, tmp_path / "data"))
    for split, samples in source.splits.items():
        images = list(samples)
        assert samples == Samples.of(images)
        assert samples == images
        assert samples[-1] == images[-1]
        assert samples[1:9:3] == images[1:9:3]
        assert samples.identities() == [each.identity for each in images]
        np.testing.assert_array_equal(labels_of(samples), labels_of(images))
        assert labels_of(samples).dtype == labels_of(images).dtype
        shown = source.target.shown
        names = [source.classes[place] for each in images for place in shown(each.label)]
        assert source.counts()[split] == {name: names.count(name) for name in source.classes}
        with pytest.raises(IndexError):
            samples[len(samples)]


def test_the_record_is_what_a_later_start_takes(color_data: Path, tmp_path: Path, cache: Path) -> None:
    """Once every file is older than the clock is fine: nothing is listed then."""
    config = folder(color_data, tmp_path / "data")
    open_data(config)
    assert not list(cache.glob("*"))
    time.sleep(2.1)
    first = open_data(config)
    (record,) = cache.glob("*.npz")
    assert record.stat().st_mode & 0o077 == 0o044
    assert cache.stat().st_mode & 0o077 == 0
    with np.load(record) as columns:
        content = dict(columns)
    about = json.loads(content["about"].tobytes()) | {"fingerprint": "of the record"}
    content["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(record, **content)
    assert open_data(config).fingerprint == "of the record"
    (config.path / "train" / "red" / "bad.png").unlink()
    assert open_data(config).fingerprint == first.fingerprint


def rewritten(path: Path) -> None:
    """Other content of the same size, and the time of before."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Make, Callable[[Path], Any]]] = {
    "an image of other content": (folder, lambda root: rewritten(root / "test" / "red" / "01.png")),
    "an image more": (
        folder,
        lambda root: shutil.copyfile(root / "test" / "red" / "01.png", root / "test" / "red" / "new.png"),
    ),
    "an image less": (folder, lambda root: (root / "test" / "red" / "01.png").unlink()),
    "an image of another name": (folder, lambda root: (root / "test" / "red" / "01.png").rename(root / "01.png")),
    "a class more": (folder, lambda root: shutil.copytree(root / "test" / "red", root / "test" / "yellow")),
    "an image that was mended": (
        folder,
        lambda root: shutil.copyfile(root / "test" / "red" / "01.png", root / "train" / "red" / "bad.png"),
    ),
    "what it says of itself": (folder, lambda root: (root / "dataset.json").write_text('{"name": "other"}')),
    "something left out": (folder, lambda root: (root / "notes.txt").unlink()),
    "a shard": (shards, lambda root: rewritten(sorted(root.glob("*.tar"))[0])),
    "an index less": (shards, lambda root: sorted(root.glob("*.jsonl"))[0].unlink()),
    "the index of the one shard": (one_shard, lambda path: Path(f"{path}.index.jsonl").unlink()),
    "a row": (manifest, rewritten),
    "an image elsewhere": (
        manifest,
        lambda path: rewritten(path.parents[1] / "images" / "train" / "red" / "00.png"),
    ),
    "an image elsewhere less": (
        manifest,
        lambda path: (path.parents[1] / "images" / "train" / "red" / "00.png").unlink(),
    ),
    "a file beside a manifest": (manifest, lambda path: (path.parent / "dataset.json").write_text("{}")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_opened_anew(change: str, color_data: Path, tmp_path: Path) -> None:
    make, mend = CHANGES[change]
    config = make(color_data, tmp_path / "data")
    if make is one_shard:  # a record needs all of it
        shutil.copytree(color_data, tmp_path / "splits")
    memory = RememberedSource(config, settled=0)
    splits = {"train": Samples.of([])}
    listing = list_data(config)
    fields = vars(open_data(config)) if make is not one_shard else _nothing(config, splits)
    memory.keep(fields, listing.items)
    assert RememberedSource(config, settled=0).recall()
    mend(config.path)
    assert RememberedSource(config, settled=0).recall() is None


def _nothing(config: DataConfig, splits: dict[str, Samples]) -> dict[str, Any]:
    return vars(DataSource(config.path, [], splits, ""))


def test_a_folder_behind_a_link_is_watched_too(color_data: Path, tmp_path: Path) -> None:
    shutil.copytree(color_data, tmp_path / "elsewhere")
    (tmp_path / "data" / "train").mkdir(parents=True)
    for path in (tmp_path / "elsewhere" / "train").iterdir():
        (tmp_path / "data" / "train" / path.name).symlink_to(path)
    (tmp_path / "data" / "train" / "red" / "loop").symlink_to(tmp_path / "data")
    config = DataConfig(path=tmp_path / "data")
    source = kept(config)
    assert recalled(config) == source
    rewritten(tmp_path / "elsewhere" / "train" / "red" / "00.png")
    assert recalled(config) is None


def test_what_is_hidden_changes_nothing(color_data: Path, tmp_path: Path) -> None:
    config = folder(color_data, tmp_path / "data")
    source = kept(config)
    (config.path / ".git").mkdir()
    (config.path / "train" / ".DS_Store").write_bytes(b"of the system")
    assert recalled(config) == source


def test_other_settings_have_records_of_their_own_and_the_oldest_goes(
    color_data: Path, tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(color_data / "train", tmp_path / "data")
    configs = [DataConfig(path=tmp_path / "data", split_seed=seed) for seed in range(KEPT + 1)]
    sources = [kept(config) for config in configs]
    assert recalled(configs[0]) is None
    assert [recalled(config) for config in configs[1:]] == sources[1:]
    assert len(list(cache.glob("*"))) == KEPT


def test_a_young_file_is_not_trusted(color_data: Path, tmp_path: Path, cache: Path) -> None:
    config = folder(color_data, tmp_path / "data")
    memory = RememberedSource(config, settled=60)
    memory.keep(vars(open_data(config)), list_data(config).items)
    assert memory.recall() is None
    assert not list(cache.glob("*.npz"))


def test_a_file_elsewhere_that_changed_meanwhile_is_not_trusted(color_data: Path, tmp_path: Path) -> None:
    config = manifest(color_data, tmp_path / "data")
    memory = RememberedSource(config, settled=0)
    source = open_data(config)
    rewritten(tmp_path / "data" / "images" / "train" / "red" / "00.png")
    memory.keep(vars(source), list_data(config).items)
    assert recalled(config) is None


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_record_is_none(
    damage: Callable[[bytes], bytes], color_data: Path, tmp_path: Path, cache: Path
) -> None:
    config = folder(color_data, tmp_path / "data")
    source = kept(config)
    (record,) = cache.glob("*.npz")
    record.write_bytes(damage(record.read_bytes()))
    assert recalled(config) is None
    assert open_data(config) == source
