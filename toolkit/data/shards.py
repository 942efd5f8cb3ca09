"""WebDataset shards: tar files of images with their labels beside them, read at random through a small index.

With its index, a shard is read like a folder: in any order, from any place, by any number of
workers. A shard without one is read through once when it is listed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePath, PurePosixPath

from toolkit.data.listing import ABOUT, UNSPLIT, ListedImage, split_in_name, split_named
from toolkit.data.shard_index import INDEX, FilePart, IndexEntry, check_label, index_of, read_index
from toolkit.data.shard_scan import scan
from toolkit.data.texts import texts_of
from toolkit.errors import ToolkitError
from toolkit.recipe.data import MissingText, TargetKind
from toolkit.runtime.image_files import NO_IMAGE, has_image_suffix, reason_against, suffix_in, visible_folders


def shards_in(path: Path) -> list[Path]:
    """The tar files of a folder and of the folders in it, sorted; or the one that the path names."""
    return [path] if path.is_file() else _files(path, "*.tar")


def indexes_in(path: Path) -> list[Path]:
    """The indexes of shards in a folder and in the folders in it, sorted."""
    return _files(path, f"*.tar{INDEX}")


def _files(path: Path, pattern: str) -> list[Path]:
    found = [*path.glob(pattern), *path.glob(f"*/{pattern}")]
    return sorted(file for file in found if not any(map(reason_against, file.relative_to(path).parts)))


def list_shards(
    path: Path, kind: TargetKind = "class", text: str | None = None, missing_text: MissingText = "error"
) -> tuple[list[ListedImage], dict[str, int]]:
    """Every image of a folder's shards, from their indexes, or from the shards where there is none.

    Args:
        path: the folder, or one shard.
        kind: what is known of an image.
        text: the recipe's ``data.columns.text``.
        missing_text: the recipe's ``data.missing_text``.

    Returns:
        The images, and how many members of shards and files beside them are left out, by reason.

    Raises:
        ToolkitError: a broken shard, an index that doesn't match its shard or holds other texts, labels of another
            kind, or samples without a text.
    """
    items, left_out = list[ListedImage](), _files_beside(path)
    _refuse_lonely_indexes(path)
    for shard in shards_in(path):
        content = read_index(shard, text) if index_of(shard).exists() else scan(shard, text)
        for sample in content.samples:
            check_label(sample, shard, kind)
        texts: list[str | None] = [None] * len(content.samples)
        if text is not None:
            texts, names = [sample.text for sample in content.samples], [sample.name for sample in content.samples]
            texts = texts_of(texts, names, missing=missing_text, kind="sample", where=shard)
        place = _Place(path, shard)
        items += [place.item(*each) for each in zip(content.samples, texts, strict=True)]
        left_out.update(content.left_out)
    if not items:
        fix = "put an image and its label under one key, such as 0001.jpg and 0001.cls"
        raise ToolkitError("no shard with an image lies here", where=path, fix=fix)
    return items, dict(left_out)


def _files_beside(path: Path) -> Counter[str]:
    """Files below the folder that are no shards, by reason; images among them are in no shard."""
    if not path.is_dir():
        return Counter()
    known = {*shards_in(path), *indexes_in(path), path / ABOUT}
    folders, counted = visible_folders(path)
    for start in (path, *folders):
        for folder, below, names in os.walk(start):
            below[:] = [] if start == path else [name for name in below if not reason_against(name)]
            counted.update(_why_beside(name) for name in names if Path(folder, name) not in known)
    return counted


def _why_beside(name: str) -> str:
    reason = reason_against(name)
    if reason is None and name.endswith(".tar"):
        return "shard more than one folder down"
    return reason or ("image in no shard" if has_image_suffix(name) else suffix_in(name) or NO_IMAGE)


def _refuse_lonely_indexes(path: Path) -> None:
    """Raise if a shard is missing whose index is there: its images would be left out unseen."""
    for index in indexes_in(path):
        shard = index.with_name(index.name.removesuffix(INDEX))
        if not shard.exists():
            fix = f"copy {shard.name} again, or remove its index"
            raise ToolkitError(f"the index's shard {shard.name} is missing", where=index, fix=fix)


class _Place:
    """A shard of a data set, which makes items of its samples."""

    def __init__(self, root: Path, shard: Path) -> None:
        folder = "" if root in {shard.parent, shard} else shard.parent.name
        self._shard, self._name = shard, str(shard)
        self._split = _split_of_shard(shard) or split_in_name(folder) or UNSPLIT

    def item(self, sample: IndexEntry, text: str | None) -> ListedImage:
        """A sample; its split stands in the index, else in the key's folders, the shard's name or its folder."""
        split: str | None = self._split
        if sample.split:
            split = split_named(sample.split)
        elif "/" in sample.name:
            split = next(filter(None, map(split_in_name, PurePosixPath(sample.name).parts[:-1])), split)
        if split is None:
            fix = "use train, validation or test"
            raise ToolkitError(f"{sample.name} is of the split {sample.split!r}", where=self._shard, fix=fix)
        content = FilePart(self._shard, sample.offset, sample.length)
        plain = not (sample.name.startswith("/") or "//" in sample.name or "./" in sample.name or "\\" in sample.name)
        name = f"{self._name}{os.sep}{sample.name}" if plain else str(PurePath(self._name, sample.name))
        return ListedImage(split, sample.label, name, content, sample.group, sample.sha256, text)


def _split_of_shard(shard: Path) -> str | None:
    """The split in a shard's name, ``train-00000`` or ``imagenet-train-00000``: its first word, else the only one."""
    first, *words = re.split(r"[\W\d_]+", shard.stem)
    found = sorted(set(filter(None, map(split_named, words))))
    return split_named(first) or (found[0] if len(found) == 1 else None)
