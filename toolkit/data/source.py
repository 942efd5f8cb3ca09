"""An opened data set: every split's images with labels, hashed, decoded once, and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from toolkit.data.formats import list_data
from toolkit.data.inspection import inspect_items
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import ListedImage, Listing, check_listing, leaking_groups, named
from toolkit.data.remembered import Remembered
from toolkit.data.remembered_source import RememberedSource
from toolkit.data.samples import Samples, groups_of, labels_of
from toolkit.data.shard_store import copy_shards
from toolkit.data.splits import canonical, divide
from toolkit.data.survey import Survey
from toolkit.data.target import ONE_CLASS, Label, Target, target_of
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import DataConfig
from toolkit.runtime.value_range import Range
from toolkit.text import path_text


@dataclass(frozen=True)
class DataSource:
    """The splits of a data set, ready to train on.

    A split's order is by class, then by content: the same images give the same run whatever
    files they lie in.
    """

    root: Path
    classes: list[str]
    splits: dict[str, Samples]
    fingerprint: str
    """SHA-256 over every sample's split, class and content, its text among it, in order."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Unreadable images that were left out: path and reason."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Sets of identical images that the source has in more than one split; here they stand in one."""
    removed: dict[str, int] = field(default_factory=dict)
    """Images that left a split for that, by split."""
    contradictions: list[list[str]] = field(default_factory=list)
    """Sets of identical images with different labels, in whatever split."""
    leaks: dict[str, list[str]] = field(default_factory=dict)
    """Groups told from file names that stand in more than one given split, with these."""
    made: list[str] = field(default_factory=list)
    """Splits that the source doesn't make."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Files that are no part of the data, by suffix or reason."""
    about: dict[str, Any] = field(default_factory=dict)
    """Content of the data set's ``dataset.json``, if there is one."""
    value_range: Range | None = None
    """What black and white are in its images of more than 8 bits; None if there are none, or each says its own."""
    target: Target = ONE_CLASS
    """What is known of an image."""
    value_ranges: dict[str, int] = field(default_factory=dict)
    """What these images hold and are read as, in words: {description: images}."""

    def read_as(self, value_range: Range | None) -> DataSource:
        """The same images with another range."""
        if value_range == self.value_range:
            return self
        splits = {split: samples.read_as(value_range) for split, samples in self.splits.items()}
        return replace(self, splits=splits, value_range=value_range)

    def labels(self, split: str) -> npt.NDArray[Any]:
        """Labels of a split; see :func:`labels_of`."""
        return labels_of(self.splits[split])

    def groups(self, split: str) -> list[str] | None:
        """Each image's group, None without groups."""
        return groups_of(self.splits[split])

    def texts(self, split: str) -> list[str | None]:
        """Each sample's text, None for an image alone."""
        samples = self.splits[split]
        return [text if there else None for text, there in zip(samples.texts, samples.has_text.tolist(), strict=True)]

    @property
    def has_texts(self) -> bool:
        """Whether any sample has a text."""
        return any(samples.has_text.any() for samples in self.splits.values())

    @property
    def has_images(self) -> bool:
        """Whether every sample has an image; it has unless the data is of texts alone."""
        return all(samples.has_images for samples in self.splits.values())

    def order(self, split: str) -> str:
        """SHA-256 over the contents of a split's samples in their order: what an index means."""
        return hashlib.sha256("\n".join(self.splits[split].identities()).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images a split and class."""
        counted = {split: samples.count_shown(self.target.shown) for split, samples in self.splits.items()}
        return {split: {name: count[i] for i, name in enumerate(self.classes)} for split, count in counted.items()}


def open_data(config: DataConfig, progress: Progress = SILENT) -> DataSource:
    """List, hash, decode and split a data set once, before anything is trained on it.

    Raises:
        ToolkitError: nothing there, classes, groups or splits that don't fit, or an unreadable
            image where ``on_bad_image`` is ``error``; images of more than 8 bits without a range, or
            images that decode to almost nothing; a store that can't be copied.
    """
    if config.store is not None:
        progress.stage("copying shards, MB")
        copy_shards(config, progress)
        progress.stage("reading images")
    memory = RememberedSource(config)
    known = memory.recall()
    if known is not None:
        return DataSource(config.path, target=target_of(config.columns), **known)
    listing = list_data(config)
    check_listing(listing)
    found, bad, survey = read_listing(listing, config.value_range, progress)
    if config.on_bad_image == "error":
        refuse_unreadable(bad, "set data.on_bad_image=skip")
    value_range = survey.value_range(config.path)
    division = divide(found, config, listing.classes)
    _check_splits(division.splits, listing, config.path)
    source = DataSource(
        root=config.path,
        classes=listing.classes,
        splits={split: Samples.of(images) for split, images in division.splits.items()},
        fingerprint=fingerprint(division.splits, listing.classes, listing.target),
        skipped=bad,
        duplicates=[sorted(path_text(image.path) for image in images) for images in division.copies],
        removed=division.removed,
        contradictions=_contradictions(found, listing),
        leaks=leaking_groups(listing.items),
        made=division.made,
        left_out=listing.left_out,
        about=listing.about,
        target=listing.target,
        value_ranges=survey.value_ranges(),
    )
    source = source.read_as(value_range)
    memory.keep(vars(source), listing.items)
    return source


def read_listing(
    listing: Listing, value_range: Range | None, progress: Progress
) -> tuple[dict[str, list[LabelledImage]], list[dict[str, str]], Survey]:
    """The readable images of each split in canonical order, the others with the reason, and what the pixels are."""
    label_of = listing.target.reader(listing.classes)
    found: dict[str, list[LabelledImage]] = {split: [] for split in listing.splits}
    bad = []
    survey, memory = Survey(value_range), Remembered(listing.root)
    inspections = inspect_items(listing.items, progress, memory=memory)
    for item, inspected in zip(listing.items, inspections, strict=True):
        survey.add(item.name, inspected)
        if inspected.error:
            bad.append({"path": path_text(item.path), "reason": inspected.error})
        else:
            found[item.split].append(_example(item, label_of(item.label), inspected.sha256))
    for examples in found.values():
        examples.sort(key=canonical)
    return found, bad, survey


def refuse_unreadable(bad: Sequence[Mapping[str, str]], skip: str) -> None:
    """Raise if there are unreadable images.

    Args:
        bad: path and reason of each.
        skip: what the user does to leave them out.

    Raises:
        ToolkitError: with the first of them and their number.
    """
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fix = f"replace or remove the file, or {skip}; toolkit data check lists all"
        raise ToolkitError(f"unreadable image: {bad[0]['reason']}{more}", where=bad[0]["path"], fix=fix)


def _example(item: ListedImage, label: Label, sha256: str) -> LabelledImage:
    return LabelledImage(item.path, label, item.content, sha256, item.group, text=item.text)


def fingerprint(splits: dict[str, list[LabelledImage]], classes: list[str], target: Target = ONE_CLASS) -> str:
    """SHA-256 over (split, class, content) of every sample, whatever the files are called."""
    lines = sorted(
        f"{split}\t{target.key(example.label, classes)}\t{example.identity}"
        for split, examples in splits.items()
        for example in examples
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _contradictions(found: Mapping[str, Sequence[LabelledImage]], listing: Listing) -> list[list[str]]:
    """Samples of one content with different labels, each set with the labels."""
    first: dict[str, Label] = {}
    written = listing.target.written
    examples = [(example.identity, example) for images in found.values() for example in images]
    odd = {identity for identity, each in examples if first.setdefault(identity, each.label) != each.label}
    sets: dict[str, list[str]] = {identity: [] for identity in sorted(odd)}
    for identity, each in examples:
        if identity in odd:
            sets[identity].append(f"{path_text(each.path)} ({written(each.label, listing.classes)})")
    return [sorted(images) for images in sets.values()]


def _check_splits(splits: dict[str, list[LabelledImage]], listing: Listing, where: Path) -> None:
    target = listing.target
    for split, examples in splits.items():
        present = {place for label in {example.label for example in examples} for place in target.shown(label)}
        empty = [name for index, name in enumerate(listing.classes) if index not in present]
        if empty and split in target.every_class_in:
            what = f"split {split!r} has no readable image of {named(empty)}"
            fix = "add images of these classes; copies of images in test or validation don't count in the other splits"
            raise ToolkitError(what, where=where, fix=fix)
