"""Image folders: ``SPLIT/CLASS/image`` or, without splits, ``CLASS/image``."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.listing import (
    ABOUT,
    SPLIT_NAMES,
    UNSPLIT,
    ListedImage,
    WholeFile,
    named,
    refuse_unlabelled,
    split_in_name,
)
from toolkit.errors import ToolkitError
from toolkit.labels import label_text, natural_order
from toolkit.runtime.image_files import files_in, images_below, visible_folders

IN_NO_CLASS = "in no class folder"
KNOWN = ", ".join(name for names in SPLIT_NAMES.values() for name in names)


@dataclass(frozen=True)
class ImageFolder:
    """What an image folder lists."""

    items: list[ListedImage]
    classes: list[str]
    """Names of all class folders, also of empty ones."""
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Child:
    """A folder in the data folder: its own images, and those of the folders in it."""

    path: Path
    own: list[str]
    below: dict[Path, list[str]]
    left_out: Counter[str]

    @property
    def images(self) -> int:
        return len(self.own) + sum(map(len, self.below.values()))

    def names(self) -> list[str]:
        """All images, sorted by path."""
        own = [(name.rpartition(os.sep)[2], [name]) for name in self.own]
        ordered = sorted([*own, *((path.name, names) for path, names in self.below.items())])
        return [name for _, names in ordered for name in names]


def list_folder(root: Path) -> ImageFolder:
    """Every image below a folder, by split, class and path.

    A folder that is named after a split is one where it holds class folders; among folders of images
    it is a class.

    Raises:
        ToolkitError: neither splits nor classes, two folders for one split, images in a folder beside the
            splits or in no class of a split, splits at another depth, or a class folder without a name.
    """
    folders, left_out = visible_folders(root)
    loose = files_in(root, but=frozenset({ABOUT}))
    children = [_look_into(folder) for folder in folders]
    for found in (loose.left_out, {IN_NO_CLASS: len(loose.names)}, *(child.left_out for child in children)):
        left_out.update(found)
    splits = _splits_of(root, children)
    _refuse_splits_below(root, children, splits)
    by_split: dict[str, dict[Path, list[str]]] = {}
    if splits:
        for split, child in splits.items():
            by_split[split] = child.below
            left_out[IN_NO_CLASS] += len(child.own)
    else:
        by_split[UNSPLIT] = {child.path: child.names() for child in children}
    if not any(by_split.values()):
        fix = "put images into one folder a class"
        raise ToolkitError("the data folder holds no class folders", where=root, fix=fix)
    folders_of_classes = [path for classes in by_split.values() for path in classes]
    nameless = [path for path in folders_of_classes if not label_text(path.name)]
    refuse_unlabelled(nameless, "folder name", root, "name the folder after its class, or remove it")
    items = [
        ListedImage(split, label_text(path.name), name, WholeFile(name))
        for split, classes in by_split.items()
        for path, names in classes.items()
        for name in names
    ]
    classes = sorted({label_text(path.name) for path in folders_of_classes}, key=natural_order)
    return ImageFolder(items, classes, {reason: count for reason, count in left_out.items() if count})


def _look_into(folder: Path) -> _Child:
    inner, left_out = visible_folders(folder)
    own = files_in(folder)
    left_out.update(own.left_out)
    below = {}
    for path in inner:
        found = images_below(path)
        below[path] = found.names
        left_out.update(found.left_out)
    return _Child(folder, own.names, below, left_out)


def _splits_of(root: Path, children: Sequence[_Child]) -> dict[str, _Child]:
    """The folders that are splits, by split; none where all are classes."""
    by_split: dict[str, list[_Child]] = defaultdict(list)
    for child in children:
        split = split_in_name(child.path.name)
        if split:
            by_split[split].append(child)
    divided = [child for found in by_split.values() for child in found if child.below]
    others = [child for child in children if split_in_name(child.path.name) is None and child.images]
    if not divided:
        if len(by_split) > 1 or (by_split and not others):
            flat = [child.path.name for found in by_split.values() for child in found]
            what = f"split folders hold no class folders: {named(flat)}"
            fix = (
                "sort their images into one folder a class (train/CLASS/image.jpg), or rename them if they are classes"
            )
            raise ToolkitError(what, where=root, fix=fix)
        return {}
    for split, found in by_split.items():
        if len(found) > 1:
            both = " and ".join(child.path.name for child in found)
            raise ToolkitError(f"two folders for one split: {both}", where=root, fix=f"keep one of them for {split}")
    if others:
        names = [f"{child.path.name} ({child.images:,} images)" for child in others]
        beside = ", ".join(child.path.name for child in divided)
        what = f"folders beside the splits ({beside}) that are no split: {named(names)}. Splits are called {KNOWN}"
        fix = "rename them after a split, or move them elsewhere; if all are classes, rename those called like a split"
        raise ToolkitError(what, where=root, fix=fix)
    for split, (child,) in by_split.items():
        if not any(child.below.values()):
            held = f"{len(child.own):,} images, but none in a class folder" if child.own else "no images"
            what = f"the folder of split {split!r}, {child.path.name}, holds {held}"
            fix = "sort images into one folder a class in it, or move the folder elsewhere and have the split made"
            raise ToolkitError(what, where=child.path, fix=fix)
    order = [split for split in SPLIT_NAMES if split in by_split]
    return {split: by_split[split][0] for split in order}


def _refuse_splits_below(root: Path, children: Iterable[_Child], splits: dict[str, _Child]) -> None:
    """Raise if split folders lie deeper: their images would be read as one heap."""
    if splits:
        classes = [pair for child in children for pair in child.below.items()]
    else:
        classes = [(child.path, child.names()) for child in children]
    places = [place for path, names in classes for place in _holders_of_splits(path, names)]
    if not places:
        return
    if len(places) == 1 and not splits:
        what = f"the splits lie deeper, in {places[0].relative_to(root)}"
        raise ToolkitError(what, where=root, fix=f"give that folder as data.path: {places[0]}")
    listed = named([place.relative_to(root) for place in places])
    what = f"folders hold splits of their own, which would be read as one heap: {listed}"
    fix = f"give one of them as data.path, such as {places[0]}, or put the splits on top: train/CLASS, test/CLASS"
    raise ToolkitError(what, where=root, fix=fix)


def _holders_of_splits(folder: Path, names: Iterable[str]) -> list[Path]:
    """The folders, this one or below it, whose folders of images are named after splits."""
    inner: dict[Path, set[str]] = defaultdict(set)
    parents = {name.rpartition(os.sep)[0] for name in names}
    for parent in map(Path, sorted(parents)):
        place = folder
        for part in parent.relative_to(folder).parts:
            inner[place].add(part)
            place /= part
    found = []
    for place, parts in inner.items():
        splits = {split_in_name(part) for part in parts}
        if len(splits - {None}) > 1 or None not in splits:
            found.append(place)
    return sorted(found)
