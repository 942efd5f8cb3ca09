"""WebDataset shards: tar files of images with their labels beside them, read at random through a small index.

A sample is the members of one key, ``train/00017.jpg`` and ``train/00017.cls`` or
``train/00017.json``; a key runs to the first dot of its last part (the WebDataset format). The
index beside a shard, ``NAME.tar.index.jsonl``, says where each image's bytes lie, so that a
shard is read like a folder: in any order, from any place, by any number of workers.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.data.listing import UNSPLIT, Item, split_named
from toolkit.errors import ToolkitError
from toolkit.files import write_bytes
from toolkit.runtime.decode import EXTENSIONS

FORMAT = 1
INDEX = ".index.jsonl"


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


def shards_in(folder: Path) -> list[Path]:
    """The tar files of a folder, sorted."""
    return sorted(folder.glob("*.tar"))


def list_shards(folder: Path) -> list[Item]:
    """Every image of a folder's shards, from their indexes, or from the shards where there is none.

    Raises:
        ToolkitError: a broken shard, or an index that doesn't match its shard.
    """
    items = []
    for shard in shards_in(folder):
        index = index_of(shard)
        samples = read_index(shard) if index.exists() else list(scan(shard))
        items += [_item(shard, sample) for sample in samples]
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolkitError(f"damaged index: {error}", where=index, fix=fix) from error
    if not known or size != shard.stat().st_size:
        what = f"the index doesn't match its shard: it is of {about['shard']} with {about['images']} images and {size} bytes"
        raise ToolkitError(what, where=index, fix=fix)
    return samples


def scan(shard: Path, advance: Callable[[], object] = lambda: None) -> Iterator[Sample]:
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
                    advance()
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
    about: dict[str, Any] = {}
    if "json" in parts:
        try:
            about = json.loads(_text(tar, parts["json"]))
        except ValueError as error:
            raise ToolkitError(f"{key}.json is no JSON: {error}", where=shard, fix="write the shard again") from error
    label = next((_text(tar, parts[name]).strip() for name in ("cls", "label", "txt") if name in parts), None)
    if label is None and isinstance(about, dict) and about.get("label") is not None:
        label = str(about["label"])
    if not label or label.lower() == "nan":
        fix = f"put {key}.cls beside the image, or 'label' into {key}.json"
        raise ToolkitError(f"{image.name} has no label", where=shard, fix=fix)
    split, group = (str(about.get(name) or "") for name in ("split", "group"))
    return Sample(image.name, image.offset_data, image.size, label, split, group, str(about.get("sha256") or ""))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None  # it is a file
    return file.read().decode()


def _item(shard: Path, sample: Sample) -> Item:
    """A sample as an item; its split stands in the index, else in the key's or the shard's name."""
    words = [sample.split] if sample.split else [PurePosixPath(sample.name).parts[0], shard.name.split("-")[0]]
    split = next((found for found in map(split_named, words) if found), UNSPLIT)
    if sample.split and split == UNSPLIT:
        fix = "use train, validation or test"
        raise ToolkitError(f"{sample.name} is of the split {sample.split!r}", where=shard, fix=fix)
    content = FilePart(shard, sample.offset, sample.length)
    return Item(split, sample.label, shard / sample.name, content, sample.group, sample.sha256)
