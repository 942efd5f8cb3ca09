from __future__ import annotations

import math

import numpy as np
import pytest

from toolkit.data.splits import hold_out
from toolkit.errors import ToolkitError


def labels_of(*counts: int) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize("share", [0.1, 0.15, 0.5])
@pytest.mark.parametrize("counts", [(40, 40), (100, 20, 37), (11, 12, 13, 14)], ids=str)
def test_the_sides_make_up_the_whole_in_its_order_with_classes_in_proportion(
    counts: tuple[int, ...], share: float
) -> None:
    labels = labels_of(*counts)
    items = [f"image {index}" for index in range(len(labels))]
    label_of = dict(zip(items, labels, strict=True))
    kept, held = hold_out(items, labels, share, 0, "here")
    assert sorted(kept + held) == sorted(items)
    assert kept == [item for item in items if item in set(kept)]
    assert held == [item for item in items if item in set(held)]
    assert len(held) == math.ceil(share * len(items))
    for label, count in enumerate(counts):
        in_proportion = len(held) * count / len(items)
        assert abs(sum(label_of[item] == label for item in held) - in_proportion) < 1


def test_a_split_is_a_function_of_its_seed() -> None:
    labels = labels_of(30, 30)
    splits = [hold_out(range(60), labels, 0.2, seed, "here") for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


@pytest.mark.parametrize(("counts", "share"), [((100, 1), 0.2), ((2, 2, 2), 0.2), ((100, 2), 0.1), ((50, 3), 0.15)])
def test_a_class_too_small_for_both_sides_is_refused(counts: tuple[int, ...], share: float) -> None:
    labels = labels_of(*counts)
    with pytest.raises(ToolkitError, match="can't hold out") as caught:
        hold_out(range(len(labels)), labels, share, 0, "here")
    assert caught.value.where == "here"


def group_items(groups: dict[str, list[int]]) -> tuple[list[int], list[str]]:
    """Labels and groups of images, from each group's labels."""
    return (
        [label for labels in groups.values() for label in labels],
        [group for group, labels in groups.items() for _ in labels],
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.33])
def test_no_group_is_divided_and_every_class_is_held_out_about_as_asked(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    labels, groups = group_items(
        {f"patient {number}": rng.choice(3, rng.integers(3, 9), p=(0.5, 0.3, 0.2)).tolist() for number in range(80)}
    )
    items = list(range(len(labels)))
    kept, held = hold_out(items, labels, share, seed, "here", groups)
    assert sorted(kept + held) == items
    assert not {groups[item] for item in kept} & {groups[item] for item in held}
    for label in range(3):
        of_class = [item for item in items if labels[item] == label]
        assert share / 2 <= len(set(of_class) & set(held)) / len(of_class) <= 2 * share
    assert hold_out(items, labels, share, seed, "here", groups) == (kept, held)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"one": [0, 1] * 20}, "too few groups"),
        ({"a": [0] * 10, "b": [1] * 10}, "too few groups"),
        ({"large": [0] * 90 + [1] * 5, **{f"{n}": [0, 1] for n in range(10)}}, "by group: the best division"),
    ],
    ids=["one-group", "a-group-a-class", "one-holds-most"],
)
def test_a_group_split_that_can_not_be_balanced_is_refused(groups: dict[str, list[int]], message: str) -> None:
    labels, names = group_items(groups)
    with pytest.raises(ToolkitError, match=message) as caught:
        hold_out(range(len(labels)), labels, 0.2, 0, "here", names)
    assert caught.value.where == "here"
    assert "make the splits yourself" in caught.value.fix


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [2, 3, 4])
def test_fewer_images_of_a_class_than_folds_divide_or_are_refused(images: int) -> None:
    labels, names = group_items({f"{number}": [number % 2] for number in range(2 * images)})
    try:
        kept, held = hold_out(range(len(labels)), labels, 0.2, 0, "here", names)
    except ToolkitError as error:
        assert "can't hold out" in error.what  # noqa: PT017
    else:
        assert sorted([*kept, *held]) == list(range(len(labels)))
        assert {labels[item] for item in held} == {labels[item] for item in kept} == {0, 1}


@pytest.mark.filterwarnings("error")
def test_a_class_in_too_few_images_to_divide_is_refused_without_a_warning() -> None:
    labels, names = group_items({f"{number}": [0, int(number < 1)] for number in range(30)})
    with pytest.raises(ToolkitError, match="too few groups"):
        hold_out(range(len(labels)), labels, 0.2, 0, "here", names)
