"""Stratified splits, by image or by group: a function of the items' order and a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toolkit.config import DataConfig
from toolkit.data.listing import SPLITS, UNSPLIT
from toolkit.errors import ToolkitError

Item = TypeVar("Item")
Labels = npt.NDArray[np.int64]
FARTHEST = 2.0
"""A group split may hold out this many times the share asked for of each class, or one part in as many."""


def hold_out(
    items: Sequence[Item],
    labels: Sequence[int],
    share: float,
    seed: int,
    where: object,
    groups: Sequence[str] | None = None,
) -> tuple[list[Item], list[Item]]:
    """Divide items into (kept, held out), each class in proportion, both in the given order.

    Args:
        items: what is divided.
        labels: their classes.
        share: what is held out.
        seed: of the choice.
        where: what errors name.
        groups: each item's group, where all items of a group are to stand on the same side; classes are
            then held in proportion as well as the groups allow.

    Raises:
        ToolkitError: too few images or groups of a class for both sides to get their part.
    """
    answers: Labels = np.asarray(labels)
    if groups is None:
        held = _held_by_image(answers, share, seed, where)
    else:
        held = _held_by_group(answers, groups, share, seed)
    if not set(labels) == set(answers[held].tolist()) == set(answers[~held].tolist()):
        one = "one is too small" if groups is None else "one lies in too few groups"
        what = f"can't hold out {share:.0%} of each class: {one} to stand on both sides"
        raise ToolkitError(what, where=where, fix="add images, or make the splits yourself")
    if groups is not None:
        _refuse_if_unbalanced(answers, held, share, where)
    kept_items = [item for item, out in zip(items, held, strict=True) if not out]
    return kept_items, [item for item, out in zip(items, held, strict=True) if out]


def hold_out_splits(
    items: Sequence[Item],
    label_of: Callable[[Item], int],
    shares: dict[str, float],
    seed: int,
    where: object,
    group_of: Callable[[Item], str] | None = None,
) -> tuple[list[Item], dict[str, list[Item]]]:
    """Hold out several splits, one after the other; each share is one of all the items.

    Returns:
        What remains, and the items of each split in ``shares``.
    """
    rest, remaining, held = list(items), 1.0, {}
    for split, share in shares.items():
        labels = [label_of(item) for item in rest]
        groups = None if group_of is None else [group_of(item) for item in rest]
        rest, held[split] = hold_out(rest, labels, share / remaining, seed, where, groups)
        remaining -= share
    return rest, held


def complete_splits(
    found: dict[str, list[Item]], config: DataConfig, label_of: Callable[[Item], int], group_of: Callable[[Item], str]
) -> dict[str, list[Item]]:
    """Make the splits that a source does not make: test and validation from what else there is.

    Raises:
        ToolkitError: nothing to train on, a validation split without a test split, or splits
            that can't be made.
    """
    splits = dict(found)
    rest = splits.pop(UNSPLIT, None) or splits.get("train")
    if rest is None:
        fix = "add train/, or rows of it"
        raise ToolkitError("no training images: the split 'train' is missing", where=config.path, fix=fix)
    if "test" not in splits and "validation" in splits:
        fix = "add a test split, or give no splits at all"
        raise ToolkitError("there is a validation split, but no test split", where=config.path, fix=fix)
    shares = {"test": config.test_share, "validation": config.validation_share}
    missing = {split: share for split, share in shares.items() if split not in splits}
    grouped = any(map(group_of, rest))
    rest, held = hold_out_splits(
        rest, label_of, missing, config.split_seed, config.path, group_of=group_of if grouped else None
    )
    splits |= held
    splits["train"] = rest
    return {split: splits[split] for split in SPLITS}


def _held_by_image(labels: Labels, share: float, seed: int, where: object) -> npt.NDArray[np.bool_]:
    from sklearn.model_selection import train_test_split

    held = np.zeros(len(labels), dtype=bool)
    try:
        _, out = train_test_split(range(len(labels)), test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        what = f"can't hold out {share:.0%} of each class: {error}"
        raise ToolkitError(what, where=where, fix="add images, or make the splits yourself") from error
    held[out] = True
    return held


def _held_by_group(labels: Labels, groups: Sequence[str], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """The fold of a stratified group k-fold that comes nearest to the share in every class."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.asarray(groups)
    folds = min(max(2, round(1 / share)), len(np.unique(names)), int(np.bincount(labels).max()))
    best = np.zeros(len(labels), dtype=bool)
    if folds < 2:
        return best
    nearest = float("inf")
    with warnings.catch_warnings(category=UserWarning, action="ignore"):  # a class in fewer images than folds
        divided = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, names))
    for _, out in divided:
        held = np.zeros(len(labels), dtype=bool)
        held[out] = True
        distance = float(np.abs(_class_shares(labels, held) - share).max())
        if distance < nearest:
            best, nearest = held, distance
    return best


def _class_shares(labels: Labels, held: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Which share of each class is held out."""
    counts = np.bincount(labels)
    present = counts > 0
    shares: npt.NDArray[np.float64] = np.bincount(labels[held], minlength=len(counts))[present] / counts[present]
    return shares


def _refuse_if_unbalanced(labels: Labels, held: npt.NDArray[np.bool_], share: float, where: object) -> None:
    shares = _class_shares(labels, held)
    if shares.min() < share / FARTHEST or shares.max() > min(share * FARTHEST, (1 + share) / 2):
        raise ToolkitError(
            f"can't hold out {share:.0%} by group: the best division holds out {shares.min():.0%} to "
            f"{shares.max():.0%} of a class, since whole groups are too large a part of it",
            where=where,
            fix="make the splits yourself in a split column, choose another share, or add groups",
        )
