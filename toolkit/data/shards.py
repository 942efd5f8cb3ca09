"""WebDataset shards: tar files of images with their labels beside them, read at random through a small index.

A sample is the members of one key, ``train/00017.jpg`` and ``train/00017.cls`` or
``train/00017.json``; a key runs to the first dot of its last part (the WebDataset format). The
index beside a shard, ``NAME.tar.index.jsonl``, says where each image's bytes lie, so that a
shard is read like a folder: in any order, from any place, by any number of workers. A shard
without an index is read through once when it is listed.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.data.listing import ABOUT, UNSPLIT, Item, named, refuse_unlabelled, split_in_name, split_named
from toolkit.errors import ToolkitError
from toolkit.files import write_bytes
from toolkit.labels import label_text
from toolkit.runtime.image_files import (
    NO_IMAGE,
    has_image_suffix,
    is_image,
    reason_against,
    suffix_in,
    visible_folders,
)

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
        """Whether it stands within a file of ``size`` bytes."""
        return 0 <= self.offset <= self.offset + self.length <= size


@dataclass(frozen=True)
class ShardContent:
    """The samples of a shard, in order, and how many of its members are no part of them, by suffix or reason."""

    samples: list[Sample]
    left_out: dict[str, int]


def shards_in(path: Path) -> list[Path]:
    """The tar files of a folder and of the folders in it, sorted; or the one that the path names."""
    return [path] if path.is_file() else _files(path, "*.tar")


def indexes_in(path: Path) -> list[Path]:
    """The indexes of shards in a folder and in the folders in it, sorted."""
    return _files(path, f"*.tar{INDEX}")


def _files(path: Path, pattern: str) -> list[Path]:
    found = [*path.glob(pattern), *path.glob(f"*/{pattern}")]
    return sorted(file for file in found if not any(map(reason_against, file.relative_to(path).parts)))


def list_shards(path: Path) -> tuple[list[Item], dict[str, int]]:
    """Every image of a folder's shards, from their indexes, or from the shards where there is none.

    Returns:
        The images, and how many members of shards and files beside them are left out, by reason.

    Raises:
        ToolkitError: a broken shard, or an index that doesn't match its shard.
    """
    items, left_out = list[Item](), _files_beside(path)
    _refuse_lonely_indexes(path)
    for shard in shards_in(path):
        content = read_index(shard) if index_of(shard).exists() else scan(shard)
        items += [_item(path, shard, sample) for sample in content.samples]
        left_out.update(content.left_out)
    if not items:
        fix = "put an image and its label under one key, such as 0001.jpg and 0001.cls"
        raise ToolkitError("no shard with an image lies here", where=path, fix=fix)
    return items, dict(left_out)


def _files_beside(path: Path) -> Counter[str]:
    """Files beside the shards and in the folders beside them, by reason; images are in no shard."""
    counted = Counter[str]()
    if not path.is_dir():
        return counted
    folders, counted = visible_folders(path)
    for folder in (path, *folders):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
        for name in names:
            reason = reason_against(name)
            if reason is None and not name.endswith((".tar", f".tar{INDEX}")) and name != ABOUT:
                reason = "image in no shard" if has_image_suffix(name) else suffix_in(name) or NO_IMAGE
            if reason:
                counted[reason] += 1
    return counted


def index_of(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(shard.name + INDEX)


def write_index(shard: Path, content: ShardContent) -> None:
    """Write a shard's index: a line about the shard, then a line an image."""
    samples = content.samples
    about = {"format": FORMAT, "shard": shard.name, "bytes": shard.stat().st_size, "images": len(samples)}
    if content.left_out:
        about["left_out"] = content.left_out
    lines = [about, *({key: getattr(sample, key) for key in Sample.__slots__} for sample in samples)]
    write_bytes(index_of(shard), "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_index(shard: Path) -> ShardContent:
    """The samples of a shard, as its index lists them.

    Raises:
        ToolkitError: the index is damaged, of a shard of another name or size, or has images without labels.
    """
    index = index_of(shard)
    fix = f"remove {index.name} and write it again: toolkit data index {shard.parent}"
    try:
        about, *lines = [json.loads(line) for line in index.read_text().splitlines()]
        samples = [_sample_in(line) for line in lines]
        size, left_out = int(about["bytes"]), Counter[str](about.get("left_out", {}))
        known = (about["format"], about["shard"], about["images"]) == (FORMAT, shard.name, len(samples))
        known = known and all(sample.lies_in(size) for sample in samples)
        total = left_out.total()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"damaged index: {error}", where=index, fix=fix) from error
    if not known or size != shard.stat().st_size:
        named_so = f"{about['shard']} with {about['images']} images and {size:,} bytes"
        what = f"the index doesn't match its shard of {shard.stat().st_size:,} bytes: it is of {named_so}"
        raise ToolkitError(what, where=index, fix=fix)
    refuse_unlabelled([row for row, sample in enumerate(samples, 1) if not sample.label], "image", index, fix)
    return ShardContent(samples, dict(left_out) if total else {})


def _sample_in(line: dict[str, Any]) -> Sample:
    """A line of an index as a sample, whatever JSON types another program wrote.

    Raises:
        TypeError: fields that are missing, unknown, or of a type that can't mean what they say.
    """
    sample = Sample(**line)
    if not isinstance(sample.name, str) or not {type(sample.offset), type(sample.length)} <= {int}:
        raise TypeError(f"no name or place of an image: {line}")
    label, split, group, sha256 = (label_text(line.get(key)) for key in ("label", "split", "group", "sha256"))
    return replace(sample, label=label, split=split, group=group, sha256=sha256)


def scan(shard: Path) -> ShardContent:
    """Find the images of a shard, in order.

    Raises:
        ToolkitError: no tar file, cut off, or images without a label.
    """
    left_out, samples = Counter[str](), list[Sample]()
    try:
        with tarfile.open(shard, "r:") as tar:
            members: dict[str, dict[str, tarfile.TarInfo]] = {}
            for member in tar:
                if not member.isfile():
                    continue
                reason = next(filter(None, map(reason_against, PurePosixPath(member.name).parts)), None)
                if reason:
                    left_out[reason] += 1
                    continue
                key, extension = key_of(member.name)
                parts = members.setdefault(key, {})
                left_out["replaced by a later member of the same name"] += extension in parts
                parts[extension] = member
            if tar.fileobj is not None and _cut_off(members, shard.stat().st_size):
                raise tarfile.ReadError("unexpected end of data")
            for key, parts in members.items():
                images = [part for extension, part in parts.items() if _is_image(tar, extension, part)]
                if images:
                    samples.append(_sample(shard, tar, key, images[0], parts))
                left_out["second image of a key"] += len(images[1:])
                left_out.update(
                    _reason(extension)
                    for extension, part in parts.items()
                    if part not in images and not (images and extension in (*LABELS, "json"))
                )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ToolkitError(f"broken tar: {error}", where=shard, fix="copy it again, or remove it") from error
    alone = [sample.name for sample in samples if not sample.label]
    if alone:
        keys = [key_of(name)[0] for name in alone]
        verb = "have" if len(alone) > 1 else "has"
        what = f"{named(alone)} {verb} no label (empty, None, NaN and the text 'nan' are no label)"
        fix = f"put {keys[0]}.cls beside the image, or 'label' into {keys[0]}.json"
        raise ToolkitError(what, where=shard, fix=fix)
    return ShardContent(samples, {reason: count for reason, count in left_out.items() if count})


def _is_image(tar: tarfile.TarFile, extension: str, member: tarfile.TarInfo) -> bool:
    """Whether a member is an image by its suffix or, where it has none, by its content."""
    if extension:
        return has_image_suffix(f"x.{extension}")
    file = tar.extractfile(member)
    return file is not None and is_image(file.read())


def _reason(extension: str) -> str:
    """Why a member is left out: its suffix, or a label that has no image."""
    if extension in (*LABELS, "json"):
        return "label without an image"
    return suffix_in(f"x.{extension}") if extension else NO_IMAGE


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
    texts = {name: label_text(about.get(name)) for name in ("label", "split", "group")}
    if label is not None:
        texts["label"] = label_text(label)
    return Sample(image.name, image.offset_data, image.size, **texts)


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
    """A sample as an item; its split stands in the index, else in the key's folders, the shard's name or its folder."""
    folder = "" if root in {shard.parent, shard} else shard.parent.name
    names = [*map(split_in_name, PurePosixPath(sample.name).parts[:-1]), _split_of_shard(shard), split_in_name(folder)]
    split = split_named(sample.split) if sample.split else next(filter(None, names), UNSPLIT)
    if split is None:
        fix = "use train, validation or test"
        raise ToolkitError(f"{sample.name} is of the split {sample.split!r}", where=shard, fix=fix)
    content = FilePart(shard, sample.offset, sample.length)
    return Item(split, sample.label, str(shard / sample.name), content, sample.group, sample.sha256)


def _split_of_shard(shard: Path) -> str | None:
    """The split in a shard's name, ``train-00000`` or ``imagenet-train-00000``: its first word, else the only one."""
    first, *words = re.split(r"[\W\d_]+", shard.stem)
    found = sorted(set(filter(None, map(split_named, words))))
    return split_named(first) or (found[0] if len(found) == 1 else None)
