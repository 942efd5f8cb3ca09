"""Splits that a source doesn't make: each image's or group's own hash decides, and only what must be is moved.

A unit is what stays together: a group or, without groups, all images of one content. It draws a number
from [0, 1) out of the seed and its name alone. Below ``test_share`` it is of the test split, below
``test_share + validation_share`` of validation, else of training. So an image stays where it is while
others come and go, and models can be compared across versions of their data.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from toolkit.data.listing import SPLITS, UNSPLIT, named
from toolkit.data.stratified import stratified
from toolkit.data.target import BINS, Label, Strata, Target, target_of
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

FARTHEST = 2.0
"""A group split may hold out this many times the share asked for of each class, or one part in as many."""
BY_RANK = ("test", "validation", "train")
"""A copy of an image stays in the first of these that holds it: the test split stays whole."""


class Divisible(Protocol):
    """An image that a split is made of."""

    @property
    def label(self) -> Label:
        """Its class, or what else is known of it."""

    @property
    def sha256(self) -> str:
        """SHA-256 of its content."""

    @property
    def group(self) -> str:
        """What must not be divided; empty without groups."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The least that is divided: an image by its place in a list."""

    index: int
    label: Label
    sha256: str
    group: str = ""


Image = TypeVar("Image", bound=Divisible)


@dataclass(frozen=True)
class Division(Generic[Image]):
    """All three splits, and what was done to get them."""

    splits: dict[str, list[Image]]
    made: list[str]
    """Splits that the source doesn't make."""
    copies: list[list[Image]]
    """Sets of images of one content that stood in more than one split, all but those of one split left out since."""
    removed: dict[str, int]
    """Images that left a split since another holds a copy, by split."""


def divide(found: Mapping[str, Sequence[Image]], config: DataConfig, classes: Sequence[str]) -> Division[Image]:
    """Keep given splits, but for copies of images across them, and make the missing ones of what else there is.

    Args:
        found: images by split, or all below ``UNSPLIT``; each list in an order that depends on contents alone.
        config: shares and seed.
        classes: names for messages.

    Raises:
        ToolkitError: nothing to train on, or classes too small or groups too large to make the splits.
    """
    splits, copies, removed = without_copies(found)
    pool = splits.pop(UNSPLIT, None) or splits.pop("train", None)
    if not pool and {UNSPLIT, "train"} & set(found):
        what = "no training image is left: none can be read, or all are copies of images in other splits"
        raise ToolkitError(what, where=config.path, fix="add training images of their own")
    if not pool:
        fix = "add train/, or rows of it"
        raise ToolkitError("no training images: the split 'train' is missing", where=config.path, fix=fix)
    made = [split for split in SPLITS[1:] if split not in splits]
    grouped = any(image.group for image in pool)
    if made:
        target = target_of(config.columns)
        strata = _Strata(target.strata([image.label for image in pool]), _names(target, classes), target.several_in_one)
        splits |= _Cut(pool, made, config, strata, grouped=grouped).splits()
    else:
        splits["train"] = pool
    if made and grouped:  # groups that hold the same image may stand in two splits
        splits, more, also = without_copies(splits)
        copies, removed = copies + more, dict(Counter(removed) + Counter(also))
    if UNSPLIT in found:
        made = list(SPLITS)
    return Division({split: splits[split] for split in SPLITS}, made, copies, removed)


def without_copies(
    found: Mapping[str, Sequence[Image]],
) -> tuple[dict[str, list[Image]], list[list[Image]], dict[str, int]]:
    """Splits whose contents differ: copies of test images leave the others, copies of validation images training.

    Returns:
        The splits, the sets of copies that stood in more than one, and how many left each split.
    """
    home: dict[str, str] = {}
    for split in sorted(found, key=lambda name: BY_RANK.index(name) if name in BY_RANK else len(BY_RANK)):
        for image in found[split]:
            home.setdefault(image.sha256, split)
    double = {image.sha256 for split, images in found.items() for image in images if home[image.sha256] != split}
    sets: dict[str, list[Image]] = defaultdict(list)
    for images in found.values():
        for image in images:
            if image.sha256 in double:
                sets[image.sha256].append(image)
    kept = {split: [each for each in images if home[each.sha256] == split] for split, images in found.items()}
    removed = {split: len(found[split]) - len(images) for split, images in kept.items()}
    return kept, list(sets.values()), {split: count for split, count in removed.items() if count}


def draw(seed: int, unit: str) -> float:
    """A number from [0, 1) that depends on the seed and the unit alone."""
    digest = hashlib.sha256(f"{seed}:{unit}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


@dataclass(frozen=True)
class _Strata:
    """What the splits that are made keep the shares of."""

    of: Strata
    names: Sequence[str]
    """For messages."""
    several: bool
    """Whether an image may be of several."""


def _names(target: Target, classes: Sequence[str]) -> list[str]:
    if target.kind == "number":
        return [f"quantile {place + 1} of {classes[0]}" for place in range(BINS)]
    return [*classes, *(["no label"] if target.several_in_one else [])]


@dataclass(slots=True)
class _Unit(Generic[Image]):
    """What stays together, with the number it drew and the split it is in now."""

    number: float
    split: str = ""
    images: list[Image] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Move:
    """A unit on its way to another split."""

    unit: _Unit[Divisible]
    to: str


class _Cut(Generic[Image]):
    """Divides a pool of images into training and the splits to be made."""

    def __init__(
        self, pool: Sequence[Image], made: Sequence[str], config: DataConfig, strata: _Strata, *, grouped: bool
    ) -> None:
        self.config, self.strata, self.grouped = config, strata, grouped
        shares = {"test": config.test_share, "validation": config.validation_share}
        start, self.bands = 0.0, dict[str, tuple[float, float]]()
        for split, share in shares.items():  # a split's band is the same whichever of them are to be made
            if split in made:
                self.bands[split] = (start, start + share)
            start += share
        self.shares = {split: shares[split] for split in self.bands}
        self.shares["train"] = 1 - sum(self.shares.values())
        self.bands["train"] = (start, 1.0)
        self.units = self._units(pool)
        self.counts: dict[str, Counter[int]] = {split: Counter() for split in self.shares}
        self.of_class: dict[int, list[_Unit[Image]]] = defaultdict(list)
        by_strata = stratified(self.units, self.shares, self._all_bands()) if strata.several and not grouped else None
        for place, unit in enumerate(self.units):
            inside = (split for split, (low, high) in self.bands.items() if low <= unit.number < high)
            unit.split = by_strata[place] if by_strata else next(inside, "train")
            self.counts[unit.split].update(unit.counts)
            for label in unit.counts:
                self.of_class[label].append(unit)
        self.totals = Counter(stratum for image in pool for stratum in strata.of(image.label))
        self._refuse_small_classes()
        self._repair()

    def splits(self) -> dict[str, list[Image]]:
        """Images by split, each in the order of the pool: by class, content and group."""
        found: dict[str, list[Image]] = {split: [] for split in self.shares}
        for unit in self.units:
            found[unit.split] += unit.images
        for images in found.values():
            images.sort(key=lambda image: (image.label, image.sha256, image.group))
        return found

    def _units(self, pool: Iterable[Image]) -> list[_Unit[Image]]:
        """All units, by the numbers they drew."""
        by_name: dict[str, _Unit[Image]] = {}
        for image in pool:
            name = image.group if self.grouped else image.sha256
            if name not in by_name:
                by_name[name] = _Unit(draw(self.config.split_seed, name))
            by_name[name].images.append(image)
            by_name[name].counts.update(self.strata.of(image.label))
        return [unit for _, unit in sorted(by_name.items(), key=lambda pair: (pair[1].number, pair[0]))]

    def _all_bands(self) -> dict[str, tuple[float, float]]:
        """The bands, that of training without the gaps which given splits leave."""
        return {**self.bands, "train": (0.0, 1.0)}  # the first band that holds a number counts

    def _limits(self, split: str, label: int) -> tuple[float, float]:
        """The fewest and the most images of a class that a split may hold."""
        if self.strata.several and label == len(self.strata.names) - 1:
            return 0, float("inf")  # images without a label are no class that a split needs
        if not self.grouped or split == "train":
            return 1, float("inf")
        share, total = self.shares[split], self.totals[label]
        return max(1, total * share / FARTHEST), total * min(share * FARTHEST, (1 + share) / 2)

    def _excess(self, split: str, label: int, count: int) -> float:
        """By how many images a split breaks the limits of a class."""
        low, high = self._limits(split, label)
        return max(0.0, low - count, count - high)

    def _broken(self) -> list[tuple[int, str]]:
        cells = ((label, split) for label in sorted(self.totals) for split in self.shares)
        return [(label, split) for label, split in cells if self._excess(split, label, self.counts[split][label])]

    def _repair(self) -> None:
        """Move as few units as need be, each from where it does the least harm.

        Raises:
            ToolkitError: the limits can't be kept.
        """
        while broken := self._broken():
            moved = False
            for label, split in broken:
                while self._excess(split, label, self.counts[split][label]):
                    move = self._best_move(label, split)
                    if move is None:
                        break
                    self._make(move)
                    moved = True
            if not moved:
                raise self._unbalanced(broken)

    def _best_move(self, label: int, split: str) -> _Move | None:
        """The move that mends most of a class in a split; None if none mends more than it breaks."""
        lacks = self.counts[split][label] < self._limits(split, label)[0]
        best: tuple[float, float, float, float] | None = None
        chosen = None
        for unit in self.of_class[label]:
            if lacks == (unit.split == split):
                continue
            for to in [split] if lacks else [other for other in self.shares if other != split]:
                low, high = self.bands[to]
                change = self._change(unit, to)
                # of moves that mend as much: from the split that has most to spare, and the number nearest to the band
                spare = self.counts[unit.split][label] - self.shares[unit.split] * self.totals[label]
                rank = (round(change, 9), -spare, max(low - unit.number, unit.number - high, 0.0), unit.number)
                if change < 0 and (best is None or rank < best):
                    best, chosen = rank, _Move(unit, to)  # type: ignore[arg-type]
        return chosen

    def _change(self, unit: _Unit[Image], to: str) -> float:
        """How much more the limits would be broken if a unit moved."""
        change = 0.0
        for label, images in unit.counts.items():
            for split, more in ((unit.split, -images), (to, images)):
                count = self.counts[split][label]
                change += self._excess(split, label, count + more) - self._excess(split, label, count)
        return change

    def _make(self, move: _Move) -> None:
        self.counts[move.unit.split].subtract(move.unit.counts)
        self.counts[move.to].update(move.unit.counts)
        move.unit.split = move.to

    def _refuse_small_classes(self) -> None:
        small = [
            label
            for label in sorted(self.totals)
            if len(self.of_class[label]) < len(self.shares) and self._limits("train", label)[0]
        ]
        if not small:
            return
        several = len(small) > 1
        if self.grouped:
            kind = "lie in too few groups" if several else "lies in too few groups"
        else:
            kind = "have too few different images" if several else "has too few different images"
        sizes = f"{len(small)} of {len(self.totals)} classes" if several else "a class"
        listed = named([f"{self.strata.names[label]} ({len(self.of_class[label])})" for label in small])
        *held, last = [split for split in (*SPLITS[1:], "train") if split in self.shares]
        what = f"can't hold out {' and '.join(held)}: {sizes} {kind} for one in each of these and {last}: {listed}"
        fix = "add images of these classes, remove the classes, or make the splits yourself"
        raise ToolkitError(what, where=self.config.path, fix=fix)

    def _unbalanced(self, broken: Sequence[tuple[int, str]]) -> ToolkitError:
        def cell(label: int, split: str) -> str:
            held = self.counts[split][label] / self.totals[label]
            return f"{held:.0%} of {self.strata.names[label]} in {split} (asked for: {self.shares[split]:.0%})"

        asked = next((self.shares[split] for _, split in broken if split != "train"), 0.0)
        cells = named([cell(*each) for each in broken])
        what = (
            f"can't hold out {asked:.0%} by group: the best division found has {cells}, since whole groups are too "
            "large a part of a class"
        )
        fix = "make the splits yourself in a split column, choose other shares, or add groups"
        return ToolkitError(what, where=self.config.path, fix=fix)
