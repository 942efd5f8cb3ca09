"""What a source lists: every image with its split, class and group, before any of them is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolkit.data.target import ONE_CLASS, Target
from toolkit.errors import ToolkitError
from toolkit.labels import natural_order
from toolkit.regular_files import read_regular
from toolkit.runtime.decode import MAX_BYTES

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What people call them, in any case; Hugging Face's ``datasets`` knows the same words."""
AROUND_A_SPLIT = re.compile(r"[\W\d_]*([^\W\d_]+?)[\W\d_]*(?:set|split|data|images)?[\W\d_]*", re.IGNORECASE)
"""What stands around such a word in the name of a folder or a shard: ``train2017``, ``Test_Set``, ``train-00000``."""
UNSPLIT = "all"
ABOUT = "dataset.json"
"""File beside the images in which a data set says of itself where it comes from."""


class Content(Protocol):
    """Where an image's encoded bytes lie; it can be sent to a loader's workers."""

    def read(self) -> bytes:
        """The whole encoded image.

        Raises:
            OSError: it can't be read.
        """


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file of its own."""

    name: str

    def read(self) -> bytes:
        """The file's bytes."""
        try:
            return read_regular(Path(self.name), MAX_BYTES)
        except ValueError as error:  # no system has such a name, as one with a zero byte
            raise OSError(str(error)) from error


@dataclass(frozen=True, slots=True)
class NoImage:
    """Stands for the image of a sample that is a text alone."""

    def read(self) -> bytes:
        """There is nothing to read.

        Raises:
            OSError: always.
        """
        raise OSError("a text without an image")


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image as its source names it."""

    split: str
    label: str
    """The class; several labels or a number as :mod:`toolkit.data.target` writes them."""
    name: str
    """Where it lies, and what messages call it; within a shard or a table, a path below it."""
    content: Content
    group: str = ""
    """What must not be divided between splits, such as a patient; empty without groups."""
    sha256: str = ""
    """Hash that the source's index promises; empty where it promises none."""
    text: str | None = None
    """What stands beside the image; None without a text column, and where it may be empty and is."""

    @property
    def path(self) -> Path:
        """``name`` as a path; kept as text, since paths of millions of images take gigabytes."""
        return Path(self.name)


@dataclass(frozen=True)
class Listing:
    """All images of a source."""

    root: Path
    items: list[ListedImage]
    classes: list[str]
    """Names of all classes in order, also of those without an image."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the source says of itself: name, source, licence."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many files lie there that are no part of it, by suffix or reason."""
    groups_from_names: bool = False
    """Whether the groups were told from file names (``data.group_pattern``), and not by the source."""
    target: Target = ONE_CLASS
    """What is known of an image."""

    @property
    def splits(self) -> list[str]:
        """The splits that there are, ``UNSPLIT`` where the source makes none."""
        present = {item.split for item in self.items}
        return [split for split in (*SPLITS, UNSPLIT) if split in present]

    def counts(self) -> dict[str, dict[str, int]]:
        """Images a split and class."""
        named_in = self.target.named_in
        counted = Counter((item.split, name) for item in self.items for name in named_in(item.label))
        return {split: {name: counted[split, name] for name in self.classes} for split in self.splits}


def split_named(word: str) -> str | None:
    """The split that a word such as ``val`` means, None if it means none."""
    lowered = word.strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if lowered in names), None)


def split_in_name(name: str) -> str | None:
    """The split that a folder or a shard is named after, None if it is named after none."""
    around = AROUND_A_SPLIT.fullmatch(name)
    return split_named(around[1]) if around else None


def refuse_half_split(items: Iterable[ListedImage], where: Path) -> None:
    """Raise if some items belong to a split and others to none: these would be left out unseen.

    Raises:
        ToolkitError: with the first files that belong to none.
    """
    known = {item.split for item in items}
    if UNSPLIT not in known or len(known) == 1:
        return
    alone = [item for item in items if item.split == UNSPLIT]
    files = list(dict.fromkeys(_file_of(item) for item in alone))
    what = (
        f"{len(alone):,} images belong to no split, the others do: {named(files)}. Splits are known by the names "
        f"{', '.join(name for names in SPLIT_NAMES.values() for name in names)}"
    )
    raise ToolkitError(what, where=where, fix="rename them after the split they belong to, or move them elsewhere")


def _file_of(item: ListedImage) -> str:
    """The name of the file that holds an item: its shard's, or its own."""
    return getattr(item.content, "path", item.path).name


def named(names: Sequence[object], most: int = 3) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def check_listing(listing: Listing) -> None:
    """Raise unless a classifier can be trained and judged on it.

    Raises:
        ToolkitError: fewer than two classes, a split that lacks one, or a group of the source on both sides of a split.
    """
    if len(listing.classes) < listing.target.fewest_classes:
        what = f"a classifier needs two classes, here is {len(listing.classes)}: {', '.join(listing.classes)}"
        raise ToolkitError(what, where=listing.root, fix="give images of at least two classes")
    for split, counts in listing.counts().items():
        empty = [name for name, count in counts.items() if not count]
        if empty and split in listing.target.every_class_in:
            place = "the data" if split == UNSPLIT else f"split {split!r}"
            raise ToolkitError(
                f"{place} has no image of: {', '.join(empty)}",
                where=listing.root,
                fix="add images of these classes, or leave the classes out everywhere",
            )
    check_groups(listing)


def check_groups(listing: Listing) -> None:
    """Raise unless groups say which images belong together.

    Raises:
        ToolkitError: images without a group among others, or a group on both sides of a split.
    """
    alone = [item for item in listing.items if not item.group]
    if 0 < len(alone) < len(listing.items):
        what = f"{len(alone)} of {len(listing.items)} images have no group, such as {alone[0].path}"
        raise ToolkitError(what, where=listing.root, fix="give every image a group, or none")
    leaks = leaking_groups(listing.items)
    if leaks and not listing.groups_from_names:  # those are a warning: names may mean other patients in each split
        first, splits = next(iter(leaks.items()))
        more = f" (and {len(leaks) - 1} more groups)" if len(leaks) > 1 else ""
        raise ToolkitError(
            f"group {first!r} stands in {' and '.join(splits)}{more}, so test metrics would be of images half known",
            where=listing.root,
            fix="move each group to one split, or leave the split column out and let the toolkit split by group",
        )


def leaking_groups(items: Iterable[ListedImage]) -> dict[str, list[str]]:
    """Groups that stand in more than one split, with these."""
    splits: dict[str, set[str]] = {}
    for item in items:
        if item.group:
            splits.setdefault(item.group, set()).add(item.split)
    return {group: sorted(found) for group, found in splits.items() if len(found) > 1}


def classes_of(
    items: Sequence[ListedImage], given: Sequence[str] | None, where: Path, target: Target = ONE_CLASS
) -> list[str]:
    """The classes in order: those given, else all that occur, sorted.

    Raises:
        ToolkitError: a label outside the given classes.
    """
    texts = {item.label for item in items}
    found = sorted({name for text in texts for name in target.named_in(text)}, key=natural_order)
    if given is None:
        return found
    odd = [label for label in found if label not in given]
    if odd:
        first = first_with(odd[0], items, target)
        what = f"labels outside data.classes: {named(odd, 5)} (first at {first})"
        raise ToolkitError(what, where=where, fix=f"mend the labels, or add them to data.classes ({', '.join(given)})")
    return list(given)


def first_with(name: str, items: Sequence[ListedImage], target: Target) -> str:
    """Where a class is named first: the image, and of a table the row."""
    row, item = next((row, item) for row, item in enumerate(items, 1) if name in target.named_in(item.label))
    return f"{item.path}, row {row}" if target.several_in_one else str(item.path)


def refuse_unlabelled(
    rows: Sequence[object], kind: str, where: object, fix: str = "fill it in, or remove the images"
) -> None:
    """Raise if there are rows, files or members whose label is none.

    Raises:
        ToolkitError: with the first of them and their number.
    """
    if rows:
        what = f"no label in {kind} {named(rows)} (empty, None, NaN and the text 'nan' are no label)"
        raise ToolkitError(what, where=where, fix=fix)
