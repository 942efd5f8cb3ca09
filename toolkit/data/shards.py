"""WebDataset shards: tar files of images with their labels beside them, read at random through a small index.

A sample is the members of one key, ``train/00017.jpg`` and ``train/00017.cls`` or
``train/00017.json``; a key runs to the first dot of its last part (the WebDataset format). The
index beside a shard, ``NAME.tar.index.jsonl``, says where each image's bytes lie, so that a
shard is read like a folder: in any order, from any place, by any number of workers. A shard
without an index is read through once when it is listed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.data.listing import UNSPLIT, Item, split_named
from toolkit.errors import ToolkitError
from toolkit.files import write_bytes
from toolkit.runtime.decode import EXTENSIONS

FORMAT = 1
INDEX = ".index.jsonl"
LABELS = ("cls", "label", "txt")
"""Extensions of the member that holds an image's label; without one, ``label`` in the ``.json`` is it."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes in the middle of a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The part's bytes.

        Raises:
            OSError: the file is shorter than it was.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) != self.length:
            raise OSError("the shard ends before the image does")
        return content


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of an index."""

    name: str
    """Member of the tar file that holds the image."""
    offset: int
    length: int
    label: str
    split: str = ""
    group: str = ""
    sha256: str = ""
    """Of the image; only an index knows it."""

    def lies_in(self, size: int) -> bool:
        """Whether it has a label and stands within a file of ``size`` bytes."""
        return bool(self.label) and 0 <= self.offset <= self.offset + self.length <= size


def shards_in(path: Path) -> list[Path]:
    """The tar files of a folder and of the folders in it, sorted; or the one that the path names."""
    return [path] if path.is_file() else sorted([*path.glob("*.tar"), *path.glob("*/*.tar")])


def indexes_in(path: Path) -> list[Path]:
    """The indexes of shards in a folder and in the folders in it, sorted."""
    return sorted([*path.glob(f"*.tar{INDEX}"), *path.glob(f"*/*.tar{INDEX}")])


def list_shards(path: Path) -> list[Item]:
    """Every image of a folder's shards, from their indexes, or from the shards where there is none.

    Raises:
        ToolkitError: a broken shard, or an index that doesn't match its shard.
    """
    items = []
    _refuse_lonely_indexes(path)
    for shard in shards_in(path):
        samples = read_index(shard) if index_of(shard).exists() else scan(shard)
        items += [_item(path, shard, sample) for sample in samples]
    if not items:
        fix = "put an image and its label under one key, such as 0001.jpg and 0001.cls"
        raise ToolkitError("no shard with an image lies here", where=path, fix=fix)
    return items


def index_of(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(shard.name + INDEX)


def write_index(shard: Path, samples: list[Sample]) -> None:
    """Write a shard's index: a line about the shard, then a line an image."""
    about = {"format": FORMAT, "shard": shard.name, "bytes": shard.stat().st_size, "images": len(samples)}
    lines = [about, *({key: getattr(sample, key) for key in Sample.__slots__} for sample in samples)]
    write_bytes(index_of(shard), "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_index(shard: Path) -> list[Sample]:
    """The samples of a shard.

    Raises:
        ToolkitError: the index is damaged, or of a shard of another name or size.
    """
    index = index_of(shard)
    fix = f"remove {index.name} and write it again: toolkit data index {shard.parent}"
    try:
        about, *lines = [json.loads(line) for line in index.read_text().splitlines()]
        samples = [Sample(**line) for line in lines]
        known = (about["format"], about["shard"], about["images"]) == (FORMAT, shard.name, len(samples))
        size = about["bytes"]
        known = known and all(sample.lies_in(size) for sample in samples)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolkitError(f"damaged index: {error}", where=index, fix=fix) from error
    if not known or size != shard.stat().st_size:
        named = f"{about['shard']} with {about['images']} images and {size:,} bytes"
        what = f"the index doesn't match its shard of {shard.stat().st_size:,} bytes: it is of {named}"
        raise ToolkitError(what, where=index, fix=fix)
    return samples


def scan(shard: Path) -> Iterator[Sample]:
    """Find the images of a shard, in order.

    Raises:
        ToolkitError: no tar file, cut off, or an image without a label.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            members: dict[str, dict[str, tarfile.TarInfo]] = {}
            for member in tar:
                if member.isfile():
                    key, extension = key_of(member.name)
                    members.setdefault(key, {})[extension] = member
            if tar.fileobj is not None and _cut_off(members, shard.stat().st_size):
                raise tarfile.ReadError("unexpected end of data")
            for key, parts in members.items():
                images = [part for extension, part in parts.items() if f".{extension.rsplit('.', 1)[-1]}" in EXTENSIONS]
                if images:
                    yield _sample(shard, tar, key, images[0], parts)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ToolkitError(f"broken tar: {error}", where=shard, fix="copy it again, or remove it") from error


def key_of(name: str) -> tuple[str, str]:
    """A member's key and extension in lower case: the name up to, and after, the first dot of its last part."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, extension.lower()


def _cut_off(members: dict[str, dict[str, tarfile.TarInfo]], size: int) -> bool:
    return any(part.offset_data + part.size > size for parts in members.values() for part in parts.values())


def _sample(
    shard: Path, tar: tarfile.TarFile, key: str, image: tarfile.TarInfo, parts: dict[str, tarfile.TarInfo]
) -> Sample:
    try:
        about: dict[str, Any] = dict(json.loads(_text(tar, parts["json"]))) if "json" in parts else {}
        label = next((_text(tar, parts[name]).strip() for name in LABELS if name in parts), None)
    except (ValueError, TypeError) as error:
        raise ToolkitError(
            f"{key}: label or JSON is damaged: {error}", where=shard, fix="write the shard again"
        ) from error
    if label is None and about.get("label") is not None:
        label = str(about["label"])
    if not label or label.lower() == "nan":
        fix = f"put {key}.cls beside the image, or 'label' into {key}.json"
        raise ToolkitError(f"{image.name} has no label", where=shard, fix=fix)
    split, group = (str(about.get(name) or "") for name in ("split", "group"))
    return Sample(image.name, image.offset_data, image.size, label, split, group)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None  # it is a file
    return file.read().decode()


def _refuse_lonely_indexes(path: Path) -> None:
    """Raise if a shard is missing whose index is there: its images would be left out unseen."""
    for index in indexes_in(path):
        shard = index.with_name(index.name.removesuffix(INDEX))
        if not shard.exists():
            fix = f"copy {shard.name} again, or remove its index"
            raise ToolkitError(f"the index's shard {shard.name} is missing", where=index, fix=fix)


def _item(root: Path, shard: Path, sample: Sample) -> Item:
    """A sample as an item; its split stands in the index, else in the name of the key, the shard or its folder."""
    folder = "" if root in {shard.parent, shard} else shard.parent.name
    names = [PurePosixPath(sample.name).parts[0], shard.stem.split("-")[0], folder]
    words = [sample.split] if sample.split else names
    split = next((found for found in map(split_named, words) if found), UNSPLIT)
    if sample.split and split == UNSPLIT:
        fix = "use train, validation or test"
        raise ToolkitError(f"{sample.name} is of the split {sample.split!r}", where=shard, fix=fix)
    content = FilePart(shard, sample.offset, sample.length)
    return Item(split, sample.label, str(shard / sample.name), content, sample.group, sample.sha256)
