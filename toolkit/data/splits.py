"""Stratified splits, a function of the files' order and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sklearn.model_selection import train_test_split

from toolkit.errors import ToolkitError

Item = TypeVar("Item")


def hold_out(
    items: Sequence[Item], labels: Sequence[int], share: float, seed: int, where: object
) -> tuple[list[Item], list[Item]]:
    """Divide items into (kept, held out), each class in proportion, both in the given order.

    Raises:
        ToolkitError: too few images of a class for both sides to get one.
    """
    try:
        kept, held = train_test_split(range(len(items)), test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ToolkitError(
            f"can't hold out {share:.0%} of each class: {error}",
            where=where,
            fix="add images, or make the split folders",
        ) from error
    if not set(labels) == {labels[index] for index in kept} == {labels[index] for index in held}:
        what = f"can't hold out {share:.0%} of each class: one is too small to stand on both sides"
        raise ToolkitError(what, where=where, fix="add images, or make the split folders")
    return [items[index] for index in sorted(kept)], [items[index] for index in sorted(held)]


def hold_out_splits(
    items: Sequence[Item], label_of: Callable[[Item], int], shares: dict[str, float], seed: int, where: object
) -> tuple[list[Item], dict[str, list[Item]]]:
    """Hold out several splits, one after the other; each share is one of all the items.

    Returns:
        What remains, and the items of each split in ``shares``.
    """
    rest, remaining, held = list(items), 1.0, {}
    for split, share in shares.items():
        rest, held[split] = hold_out(rest, [label_of(item) for item in rest], share / remaining, seed, where)
        remaining -= share
    return rest, held
