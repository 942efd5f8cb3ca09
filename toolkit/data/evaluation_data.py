"""Labelled images for a classifier that is there already: its classes in its order, of one split or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from toolkit.data.formats import list_data
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import SPLITS, UNSPLIT, Listing, check_groups, first_with, named, split_named
from toolkit.data.source import fingerprint, read_listing, refuse_unreadable
from toolkit.data.splits import canonical, divide, without_copies
from toolkit.data.target import ONE_CLASS, Target
from toolkit.errors import ToolkitError
from toolkit.labels import natural_order
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import DataConfig

ALL = "all"


@dataclass(frozen=True)
class EvaluationData:
    """Images whose labels a classifier knows."""

    config: DataConfig
    classes: Sequence[str]
    images: list[LabelledImage]
    """By class, then by content."""
    split: str
    """Of :data:`toolkit.data.listing.SPLITS`, or ``all``."""
    skipped: list[dict[str, str]]
    """Unreadable images that were left out: path and reason."""
    target: Target = ONE_CLASS
    """What is known of an image."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the images' split, class and content."""
        return fingerprint({self.split: self.images}, list(self.classes), self.target)

    @property
    def absent_classes(self) -> list[str]:
        """Classes that none of the images show."""
        present = {place for label in {image.label for image in self.images} for place in self.target.shown(label)}
        return [name for place, name in enumerate(self.classes) if place not in present]


def open_evaluation_data(
    config: DataConfig, classes: Sequence[str], split: str | None = None, progress: Progress = SILENT
) -> EvaluationData:
    """List, hash and decode the images of a split.

    A split that the source makes is taken as it is, but for copies of images as in training; one that it doesn't
    make is what training would make with the same shares and seed.

    Args:
        config: where the images are; ``value_range`` is the classifier's.
        classes: all that the classifier knows.
        split: a split, or ``all``; ``test`` unless given, and ``all`` where the source makes no splits.
        progress: told how many images are read.

    Raises:
        ToolkitError: labels that the classifier does not know, no such split, groups that are half given, or an
            unreadable image where ``on_bad_image`` is ``error``.
    """
    listing = list_data(config)
    _refuse_unknown(listing, classes)
    wanted = split or (ALL if listing.splits == [UNSPLIT] else "test")
    chosen = ALL if wanted == ALL else split_named(wanted)
    if chosen is None:
        fix = f"choose from {', '.join(SPLITS)} and {ALL}"
        raise ToolkitError(f"there is no split {wanted!r}", where="--split", fix=fix)
    if chosen == "test" and "test" in listing.splits:  # the others have no say in it
        listing = replace(listing, items=[item for item in listing.items if item.split == "test"])
    check_groups(listing)
    found, bad, _ = read_listing(replace(listing, classes=list(classes)), config.value_range, progress)
    if config.on_bad_image == "error":
        refuse_unreadable(bad, "add --skip-bad")
    images = _images_of(chosen, found, config, classes)
    if not images:
        what = "there is no readable image" if chosen == ALL else f"split {chosen!r} has no readable image"
        raise ToolkitError(what, where=config.path, fix="add labelled images")
    return EvaluationData(
        config,
        classes,
        [replace(image, value_range=config.value_range) for image in images],
        chosen,
        bad,
        listing.target,
    )


def _refuse_unknown(listing: Listing, classes: Sequence[str]) -> None:
    target = listing.target
    found = {name for text in {item.label for item in listing.items} for name in target.named_in(text)}
    odd = sorted(found - set(classes), key=natural_order)
    if odd:
        first = first_with(odd[0], listing.items, target)
        what = f"labels that the classifier does not know: {named(odd, 5)} (first at {first})"
        fix = f"mend the labels, or leave these images out; it knows {named(classes, 20)}"
        raise ToolkitError(what, where=listing.root, fix=fix)


def _images_of(
    split: str, found: Mapping[str, Sequence[LabelledImage]], config: DataConfig, classes: Sequence[str]
) -> list[LabelledImage]:
    if split == ALL:
        images = [image for each in found.values() for image in each]
        return sorted(images, key=canonical)
    if split in found and split != "train":
        return without_copies(found)[0][split]
    if not {UNSPLIT, "train"} & set(found):
        what = f"there is no split {split!r}, only {' and '.join(found) or 'none'}"
        raise ToolkitError(what, where=config.path, fix=f"choose another with --split, or {ALL}")
    return divide(found, config, classes).splits[split]
