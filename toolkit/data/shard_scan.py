"""Find the images of a tar file and their labels, by reading through it once.

A sample is the members of one key, ``train/00017.jpg`` and ``train/00017.cls`` or
``train/00017.json``; a key runs to the first dot of its last part (the WebDataset format).
"""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.data.label_cells import several_text
from toolkit.data.listing import named
from toolkit.data.shard_index import IndexEntry, ShardContent
from toolkit.errors import ToolkitError
from toolkit.labels import label_text
from toolkit.regular_files import MOST_SETTINGS, open_regular
from toolkit.runtime.decode import MAX_BYTES
from toolkit.runtime.image_files import NO_IMAGE, has_image_suffix, is_image, reason_against, suffix_in
from toolkit.strict_json import read_json
from toolkit.text import for_terminal, is_utf8

LABELS = ("cls", "label", "txt")
"""Extensions of the member that holds an image's label; without one, ``label`` in the ``.json`` is it."""


def scan(shard: Path) -> ShardContent:
    """Find the images of a shard, in order.

    Raises:
        ToolkitError: no tar file, cut off, or images without a label.
    """
    left_out, samples = Counter[str](), list[IndexEntry]()
    try:
        with open_regular(shard) as content, tarfile.open(fileobj=content, mode="r:") as tar:
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
        fix = (
            f"put {keys[0]}.cls beside the image, or 'label' into {keys[0]}.json; if it is no shard, data.format=folder"
        )
        raise ToolkitError(what, where=shard, fix=fix)
    return ShardContent(samples, {reason: count for reason, count in left_out.items() if count})


def _is_image(tar: tarfile.TarFile, extension: str, member: tarfile.TarInfo) -> bool:
    """Whether a member is an image by its suffix or, where it has none, by its content."""
    if extension:
        return has_image_suffix(f"x.{extension}")
    file = tar.extractfile(member)
    return file is not None and member.size <= MAX_BYTES and is_image(file.read())


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
) -> IndexEntry:
    try:
        about: dict[str, Any] = dict(read_json(_text(tar, parts["json"]), finite=False)) if "json" in parts else {}
        label = next((_text(tar, parts[name]).strip() for name in LABELS if name in parts), None)
    except (ValueError, TypeError) as error:
        raise ToolkitError(
            f"{key}: label or JSON is damaged: {error}", where=shard, fix="write the shard again"
        ) from error
    texts = {name: label_text(about.get(name)) for name in ("label", "split", "group")}
    if "labels" in about and not texts["label"]:
        texts["label"] = _several(shard, key, about["labels"])
    if label is not None:
        texts["label"] = label_text(label)
    name = image.name if is_utf8(image.name) else for_terminal(image.name)  # an index is UTF-8
    return IndexEntry(name, image.offset_data, image.size, **texts)


def _several(shard: Path, key: str, labels: Any) -> str:
    try:
        return several_text(labels)
    except ValueError as error:
        fix = "write a list of names, [] where there is no label"
        raise ToolkitError(f"{key}: 'labels' is {error}", where=shard, fix=fix) from error


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None  # it is a file
    if member.size > MOST_SETTINGS:
        raise ValueError(f"{member.name} has {member.size:,} bytes, over the limit of {MOST_SETTINGS:,}")
    return file.read().decode()
