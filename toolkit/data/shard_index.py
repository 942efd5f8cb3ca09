"""The index beside a shard, ``NAME.tar.index.jsonl``: a line about it, then a line an image with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from toolkit.data.listing import refuse_unlabelled
from toolkit.data.target import labels_text, names_in, number_text
from toolkit.errors import ToolkitError
from toolkit.files import write_bytes
from toolkit.labels import label_text
from toolkit.recipe.data import TargetKind
from toolkit.regular_files import bounded_lines, open_regular
from toolkit.runtime.decode import MAX_BYTES
from toolkit.strict_json import read_json, reason_in

FORMAT = 1
INDEX = ".index.jsonl"
LARGEST = 2**63
"""No file has as many bytes."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes in the middle of a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The part's bytes.

        Raises:
            OSError: the file is shorter than it was, or no regular file; a part of more than ``MAX_BYTES``.
        """
        if self.length > MAX_BYTES:
            raise OSError(f"{self.length:,} bytes, over the limit of {MAX_BYTES:,}")
        with open_regular(self.path) as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) != self.length:
            raise OSError("the shard ends before the image does")
        return content


@dataclass(frozen=True, slots=True)
class IndexEntry:
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
    text: str | None = None
    """What stands beside the image, if the shard was read for texts."""

    def lies_in(self, size: int) -> bool:
        """Whether it stands within a file of ``size`` bytes."""
        return 0 <= self.offset <= self.offset + self.length <= size


@dataclass(frozen=True)
class ShardContent:
    """The samples of a shard, in order, and how many of its members are no part of them, by suffix or reason."""

    samples: list[IndexEntry]
    left_out: dict[str, int]
    text: str | None = None
    """Field or extension that the texts stand in; None if it was read without texts."""


def index_of(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(shard.name + INDEX)


def write_index(shard: Path, content: ShardContent) -> None:
    """Write a shard's index: a line about the shard, then a line an image."""
    samples = content.samples
    about = {"format": FORMAT, "shard": shard.name, "bytes": shard.stat().st_size, "images": len(samples)}
    if content.left_out:
        about["left_out"] = content.left_out
    if content.text is not None:
        about["text"] = content.text
    lines = [about, *map(_line_of, samples)]
    write_bytes(index_of(shard), "".join(json.dumps(line) + "\n" for line in lines).encode())


def _line_of(sample: IndexEntry) -> dict[str, Any]:
    line = {key: getattr(sample, key) for key in IndexEntry.__slots__}
    return line if sample.text is not None else {key: value for key, value in line.items() if key != "text"}


def read_index(shard: Path, text: str | None = None) -> ShardContent:
    """The samples of a shard, as its index lists them.

    Args:
        shard: the tar file.
        text: the recipe's ``data.columns.text``; None leaves texts out that the index has.

    Raises:
        ToolkitError: the index is damaged, of a shard of another name or size, has images without labels, or was
            made without these texts.
    """
    index = index_of(shard)
    fix = f"remove {index.name} and write it again: toolkit data index {shard.parent}"
    try:
        with TextIOWrapper(open_regular(index), encoding="utf-8") as file:
            about, *lines = (read_json(line, finite=False) for line in bounded_lines(file))
        samples = [_sample_in(line) for line in lines]
        size, left_out, column = about["bytes"], about.get("left_out", {}), about.get("text")
        if type(size) is not int or not isinstance(left_out, dict) or not all(map(_is_count, left_out.values())):
            raise TypeError("its first line holds no sizes and counts")
        known = (about["format"], about["shard"], about["images"]) == (FORMAT, shard.name, len(samples))
        known = known and all(sample.lies_in(size) for sample in samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"damaged index: {reason_in(error)}", where=index, fix=fix) from error
    if not known or size != shard.stat().st_size:
        named_so = f"{about['shard']} with {about['images']} images and {size:,} bytes"
        what = f"the index doesn't match its shard of {shard.stat().st_size:,} bytes: it is of {named_so}"
        raise ToolkitError(what, where=index, fix=fix)
    refuse_unlabelled([row for row, sample in enumerate(samples, 1) if not sample.label], "image", index, fix)
    if text is not None and column != text:
        what = f"the index was made with the texts of {column!r}" if column else "the index was made without texts"
        fix = f"write it again: toolkit data index {shard.parent} columns.text={text}"
        raise ToolkitError(f"{what}, not with those of {text!r}", where=index, fix=fix)
    if text is None:
        samples = [replace(sample, text=None) if sample.text is not None else sample for sample in samples]
    return ShardContent(samples, left_out if any(left_out.values()) else {}, text)


def check_label(sample: IndexEntry, shard: Path, kind: TargetKind) -> None:
    """Refuse a sample that says another kind of thing of its image than is asked for.

    Raises:
        ToolkitError: with its name.
    """
    several = _is_list(sample.label)
    if kind == "labels" and not several:
        fix = "put a list as 'labels' into the sample's .json, or leave data.columns.labels out"
        raise ToolkitError(f"{sample.name} has one class, and no list of labels", where=shard, fix=fix)
    if kind == "class" and several:
        fix = "set data.columns.labels=labels, and model.task=multi-label"
        raise ToolkitError(f"{sample.name} has several labels, {sample.label}", where=shard, fix=fix)
    if kind == "number":
        try:
            number_text(float(sample.label))
        except ValueError as error:
            fix = "write a number as 'label' into the sample's .json"
            raise ToolkitError(f"{sample.name} has no finite number: {sample.label}", where=shard, fix=fix) from error


_text_of = lru_cache(100_000)(label_text)
"""Labels, splits and groups come again and again."""


def _is_list(label: str) -> bool:
    """Whether a label is several ones, as :func:`toolkit.data.target.labels_text` writes them."""
    if not label.startswith("["):
        return False
    try:
        return labels_text(names_in(label)) == label
    except (ValueError, TypeError):
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _sample_in(line: dict[str, Any]) -> IndexEntry:
    """A line of an index as a sample, whatever JSON types another program wrote.

    Raises:
        TypeError: fields that are missing, unknown, or of a type that can't mean what they say.
    """
    sample = IndexEntry(**line)
    if not isinstance(sample.name, str) or not (_is_count(sample.offset) and _is_count(sample.length)):
        raise TypeError(f"no name or place of an image: {str(line)[:200]}")
    others = [sample.label, sample.split, sample.group, sample.sha256]
    if any(isinstance(each, (dict, list)) for each in others):
        raise TypeError(f"no label, split, group or hash: {str(others)[:200]}")
    if sample.text is not None and not isinstance(sample.text, str):
        raise TypeError(f"no text: {str(sample.text)[:200]}")
    if all(type(each) is str for each in others) and others == [_text_of(each) for each in others[:3]] + others[3:]:
        return sample  # as this toolkit writes it
    label, split, group, sha256 = (label_text(line.get(key)) for key in ("label", "split", "group", "sha256"))
    return replace(sample, label=label, split=split, group=group, sha256=sha256)
