"""Pack any data set into WebDataset shards, and index shards that others packed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.data.formats import list_data
from toolkit.data.listing import ABOUT, UNSPLIT, ListedImage
from toolkit.data.shard_index import FilePart, IndexEntry, ShardContent, write_index
from toolkit.data.shard_scan import scan
from toolkit.data.shards import shards_in
from toolkit.data.target import Target
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, staged_folder, write_json
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import DataConfig
from toolkit.runtime.decode import suffix_of
from toolkit.runtime.image_files import has_image_suffix, suffix_in


def write_shards(
    config: DataConfig, dest: Path, *, images_per_shard: int = 1000, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Pack a data set's images, as they are encoded, into ``SPLIT-00000.tar`` with an index beside each.

    Args:
        config: the data set.
        dest: folder to be; it is whole or not there.
        images_per_shard: images in a shard but the last of a split.
        force: replace shards that an earlier call wrote.
        progress: told how many are done.

    Returns:
        The content of ``dataset.json``: what the source says of itself, classes, counts and shards; and
        ``left_out``, the source's files that are in no shard, by reason.

    Raises:
        ToolkitError: what can't be listed, or an image that can't be read.
    """
    listing = list_data(config)
    with (
        staged_folder(dest, what="folder of shards", marker="dataset.json", replace=force) as stage,
        explain_os_errors(dest),
    ):
        done, names = 0, []
        for split in listing.splits:
            items = [item for item in listing.items if item.split == split]
            for first in range(0, len(items), images_per_shard):
                shard = stage / f"{split}-{first // images_per_shard:05d}.tar"
                _write_shard(shard, items[first : first + images_per_shard], first, listing.target)
                write_index(shard, _hashed(shard))
                names.append(shard.name)
                done += len(items[first : first + images_per_shard])
                progress.done(done, len(listing.items))
        about = listing.about | {
            "classes": listing.classes,
            "images": len(listing.items),
            "counts": listing.counts(),
            "shards": names,
        }
        write_json(stage / ABOUT, about)
    return about | {"left_out": listing.left_out}


def index_shards(path: Path, progress: Progress = SILENT) -> dict[str, int]:
    """Write the index of every shard at a path anew, with each image's SHA-256; return images by shard.

    Raises:
        ToolkitError: no shards, a broken one, or images without labels.
    """
    shards = shards_in(path) if path.exists() else []
    if not shards:
        raise ToolkitError("there are no shards (*.tar)", where=path, fix="give a folder of tar files")
    found = {}
    for done, shard in enumerate(shards, 1):
        content = _hashed(shard)
        with explain_os_errors(shard.parent):
            write_index(shard, content)
        found[str(shard)] = len(content.samples)
        progress.done(done, len(shards))
    return found


def _hashed(shard: Path) -> ShardContent:
    """A shard's content, with the SHA-256 of every image."""
    content = scan(shard)
    return replace(content, samples=[replace(each, sha256=_hash(shard, each)) for each in content.samples])


def _hash(shard: Path, sample: IndexEntry) -> str:
    return hashlib.sha256(FilePart(shard, sample.offset, sample.length).read()).hexdigest()


def _write_shard(shard: Path, items: Sequence[ListedImage], first: int, target: Target) -> None:
    """Two members an image, without times or owners: the same images give the same bytes."""
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(items, first):
            try:
                content = item.content.read()
            except OSError as error:
                fix = "replace or remove it; toolkit data check lists all"
                raise ToolkitError(
                    f"can't read the image: {error.strerror or error}", where=item.path, fix=fix
                ) from error
            about: dict[str, Any] = {"label": item.label}
            if target.several_in_one:
                about = {"labels": target.named_in(item.label)}
            if item.group:
                about["group"] = item.group
            if item.split != UNSPLIT:
                about["split"] = item.split
            suffix = suffix_in(item.name) if has_image_suffix(item.name) else ".jpg"
            _add(tar, f"{number:08d}{suffix_of(content, suffix)}", content)
            _add(tar, f"{number:08d}.json", json.dumps(about, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
