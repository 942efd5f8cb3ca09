from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.listing import SPLITS, UNSPLIT
from toolkit.data.splits import Entry, divide, draw, without_copies
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

CONFIG = DataConfig(path=Path("/data"))
NAMES = [f"class {number}" for number in range(1000)]


def entries_of(*counts: int, start: int = 0) -> list[Entry]:
    """So many different images of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [
        Entry(index, label, hashlib.sha256(f"image {start + index}".encode()).hexdigest())
        for index, label in enumerate(labels)
    ]


def grouped(groups: dict[str, Sequence[int]]) -> list[Entry]:
    """Images from each group's labels."""
    pairs = [(group, label) for group, labels in groups.items() for label in labels]
    return [
        Entry(index, label, hashlib.sha256(f"{index}".encode()).hexdigest(), group)
        for index, (group, label) in enumerate(pairs)
    ]


def placed(pool: Sequence[Entry], config: DataConfig = CONFIG) -> dict[str, str]:
    """Each image's split."""
    found = divide({UNSPLIT: pool}, config, NAMES).splits
    return {entry.sha256: split for split, entries in found.items() for entry in entries}


def counts(splits: dict[str, list[Entry]]) -> dict[str, Counter[int]]:
    return {split: Counter(entry.label for entry in entries) for split, entries in splits.items()}


def test_a_draw_is_even_and_a_function_of_seed_and_name_alone() -> None:
    draws = [draw(3, f"unit {number}") for number in range(20_000)]
    assert draws == [draw(3, f"unit {number}") for number in range(20_000)]
    assert draw(4, "unit 0") != draws[0]
    shares = np.histogram(draws, bins=10, range=(0, 1))[0] / len(draws)
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / len(draws))


@pytest.mark.parametrize("seed", range(3))
def test_the_sides_make_up_the_whole_about_as_large_as_asked(seed: int) -> None:
    pool = entries_of(2000, 500, 1000)
    config = CONFIG.model_copy(update={"split_seed": seed})
    division = divide({UNSPLIT: pool}, config, NAMES)
    assert division.made == list(division.splits) == list(SPLITS)
    assert sorted(entry.index for each in division.splits.values() for entry in each) == list(range(len(pool)))
    for split, share in (("test", 0.2), ("validation", 0.15), ("train", 0.65)):
        for label, held in counts(division.splits)[split].items():
            total = (2000, 500, 1000)[label]
            assert abs(held - share * total) < 5 * np.sqrt(share * (1 - share) * total)
    assert placed(pool, config) == placed(pool[::-1], config)


@pytest.mark.parametrize("more", [0.01, 0.1, 0.5])
def test_images_that_are_added_move_no_other_image(more: float) -> None:
    """Each class is large enough that no split lacks one, before or after."""
    before = entries_of(100, 60, 200)
    added = entries_of(*(round(more * count) for count in (100, 60, 200)), start=10**6)
    old, new = placed(before), placed(before + added)
    assert len(new) == len(before) + len(added)
    assert [sha256 for sha256, split in old.items() if new[sha256] != split] == []
    without = placed(before[len(before) // 3 :])
    assert [sha256 for sha256, split in without.items() if old[sha256] != split] == []


@pytest.mark.parametrize("more", [0.01, 0.1, 0.5])
def test_groups_that_are_added_move_no_other_group(more: float) -> None:
    rng = np.random.default_rng(0)

    def groups(first: int, number: int) -> dict[str, Sequence[int]]:
        return {f"patient {first + n}": rng.choice(3, rng.integers(3, 9)).tolist() for n in range(number)}

    before = groups(0, 400)
    old = divide({UNSPLIT: grouped(before)}, CONFIG, NAMES).splits
    new = divide({UNSPLIT: grouped(before | groups(400, round(400 * more)))}, CONFIG, NAMES).splits
    split_of = {entry.group: split for split, entries in new.items() for entry in entries}
    assert [entry.group for split, entries in old.items() for entry in entries if split_of[entry.group] != split] == []


def test_equal_contents_stand_on_one_side() -> None:
    pool = entries_of(50, 50)
    copies = [Entry(100 + entry.index, entry.label, entry.sha256) for entry in pool]
    division = divide({UNSPLIT: pool + copies}, CONFIG, NAMES)
    assert (division.copies, division.removed) == ([], {})
    assert without_copies(division.splits)[0] == division.splits
    assert sum(map(len, division.splits.values())) == 200


@pytest.mark.parametrize("images", [3, 6])
def test_a_thousand_small_classes_stand_in_every_split(images: int) -> None:
    division = divide({UNSPLIT: entries_of(*[images] * 1000)}, CONFIG, NAMES)
    found = counts(division.splits)
    assert all(found[split][label] for split in SPLITS for label in range(1000))
    assert sum(map(len, division.splits.values())) == 1000 * images


def test_a_repair_moves_only_what_a_class_lacks() -> None:
    pool = entries_of(6, 400)
    bands = (("test", 0.2), ("validation", 0.35), ("train", 1.0))
    drawn = {e.sha256: next(split for split, end in bands if draw(0, e.sha256) < end) for e in pool}
    moved = [entry for entry in pool if placed(pool)[entry.sha256] != drawn[entry.sha256]]
    lacking = set(SPLITS) - {drawn[entry.sha256] for entry in pool if entry.label == 0}
    assert [entry.label for entry in moved] == [0] * len(lacking)


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ((100, 1), "can't hold out validation and test: a class has too few different images .*: class 1 \\(1\\)"),
        (
            (2, 50, 2, 1, 2),
            "4 of 5 classes have too few .*: class 0 \\(2\\), class 2 \\(2\\), class 3 \\(1\\) and 1 more",
        ),
    ],
)
def test_classes_too_small_to_split_are_named_with_their_sizes(sizes: tuple[int, ...], what: str) -> None:
    with pytest.raises(ToolkitError, match=what) as caught:
        divide({UNSPLIT: entries_of(*sizes)}, CONFIG, NAMES)
    assert caught.value.where == "/data"


@pytest.mark.parametrize("given", ["validation", "test"])
def test_a_given_split_stays_and_the_other_is_cut_from_train_by_the_same_numbers(given: str) -> None:
    train, other = entries_of(300, 300), entries_of(20, 20, start=10**6)
    division = divide({"train": train, given: other}, CONFIG, NAMES)
    made = ({"validation", "test"} - {given}).pop()
    assert (division.made, division.splits[given]) == ([made], other)
    low, high = {"test": (0.0, 0.2), "validation": (0.2, 0.35)}[made]
    cut = {entry.sha256 for entry in division.splits[made]}
    assert cut == {entry.sha256 for entry in train if low <= draw(0, entry.sha256) < high}


def test_given_splits_are_left_alone() -> None:
    found = {"train": entries_of(4, 4), "validation": entries_of(1, 1, start=50), "test": entries_of(2, 1, start=90)}
    division = divide(found, CONFIG, NAMES)
    assert division.splits == found
    assert (division.made, division.copies, division.removed) == ([], [], {})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.33])
def test_no_group_is_divided_and_every_class_is_held_out_about_as_asked(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    pool = grouped(
        {f"patient {number}": rng.choice(3, rng.integers(3, 9), p=(0.5, 0.3, 0.2)).tolist() for number in range(80)}
    )
    config = CONFIG.model_copy(update={"split_seed": seed, "test_share": share})
    splits = divide({UNSPLIT: pool}, config, NAMES).splits
    groups = [{entry.group for entry in entries} for entries in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 80
    for label in range(3):
        total = sum(entry.label == label for entry in pool)
        for split, asked in (("test", share), ("validation", 0.15)):
            assert asked / 2 <= counts(splits)[split][label] / total <= 2 * asked


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"one": [0, 1] * 20}, r"2 of 2 classes lie in too few groups .*: class 0 \(1\), class 1 \(1\)"),
        ({"a": [0] * 10, "b": [1] * 10}, "lie in too few groups"),
        ({"large": [0] * 90 + [1] * 5, **{f"{n}": [0, 1] for n in range(10)}}, "by group: the best division"),
    ],
    ids=["one-group", "a-group-a-class", "one-holds-most"],
)
def test_a_group_split_that_can_not_be_balanced_is_refused(groups: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ToolkitError, match=message) as caught:
        divide({UNSPLIT: grouped(groups)}, CONFIG, NAMES)
    assert caught.value.where == "/data"
    assert "make the splits yourself" in caught.value.fix


def test_an_image_in_two_groups_stands_in_one_split() -> None:
    pool = grouped({f"{number}": [0, 1, 0, 1] for number in range(60)})
    shared = [Entry(1000 + number, 0, "same", f"{number}") for number in range(60)]
    division = divide({UNSPLIT: pool + shared}, CONFIG, NAMES)
    homes = {split for split, entries in division.splits.items() if any(entry.sha256 == "same" for entry in entries)}
    assert homes == {"test"}
    assert sum(division.removed.values()) == 60 - sum(entry.sha256 == "same" for entry in division.splits["test"])


def test_training_images_that_are_all_copies_are_refused() -> None:
    images = entries_of(4, 4)
    with pytest.raises(ToolkitError, match="no training image is left: none can be read, or all are copies"):
        divide({"train": images, "test": images}, CONFIG, NAMES)
    with pytest.raises(ToolkitError, match="the split 'train' is missing"):
        divide({"test": images}, CONFIG, NAMES)
