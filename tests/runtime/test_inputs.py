"""Batches hold so many bytes, whatever the images' sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_graph import LABELS

from toolkit.runtime.inputs import TensorSpec, images_a_batch, places_by_shapes, stacked, windows


@pytest.mark.parametrize(("image_bytes", "images"), [(1, 32), (2, 32), (10, 6), (64, 1), (65, 1), (10**9, 1)])
def test_a_batch_has_as_many_images_as_fit_and_at_least_one(image_bytes: int, images: int) -> None:
    assert images_a_batch(image_bytes, 32, budget=64) == images


def test_windows_keep_the_order_the_count_and_the_budget() -> None:
    rng = np.random.default_rng(0)
    arrays = [{"image": np.zeros(size, np.uint8)} for size in rng.integers(1, 80, 200)]
    found = list(windows(iter(arrays), 5, budget=100))
    assert [id(array) for window in found for array in window] == list(map(id, arrays))
    for window in found:
        assert len(window) <= 5
        assert len(window) == 1 or sum(each["image"].nbytes for each in window) <= 100
    for window, following in itertools.pairwise(found):  # as few as can be
        assert len(window) == 5 or sum(each["image"].nbytes for each in (*window, following[0])) > 100


def test_what_a_window_holds_follows_from_its_stretch_alone() -> None:
    rng = np.random.default_rng(0)
    arrays = [{"image": np.zeros(size, np.uint8)} for size in rng.integers(1, 80, 100)]
    whole = list(windows(iter(arrays), 5, budget=100, stretch=23))
    apart = [
        window
        for start in range(0, len(arrays), 23)
        for first in range(start, min(start + 23, len(arrays)), 5)
        for window in windows(arrays[first : min(first + 5, start + 23)], 5, budget=100)
    ]
    assert [list(map(id, window)) for window in whole] == [list(map(id, window)) for window in apart]


def test_what_is_no_example_counts_no_bytes() -> None:
    assert next(iter(windows([*LABELS, {"image": np.zeros(9)}], 4, budget=1)))[:3] == LABELS
    assert list(windows([], 4)) == []


def test_a_single_image_is_not_copied() -> None:
    image = {"image": np.zeros((4, 5, 3), np.uint8)}
    assert np.shares_memory(stacked([image])["image"], image["image"])
    assert stacked([image, image])["image"].shape == (2, 4, 5, 3)
    smaller = {"image": image["image"][:2]}
    assert places_by_shapes({7: image, 8: smaller, 9: image}) == [[7, 9], [8]]


def test_examples_stand_in_one_batch_if_all_their_tensors_do() -> None:
    image, ids = np.zeros((4, 4, 3), np.uint8), np.zeros(7, np.int64)
    examples = {0: {"image": image, "input_ids": ids}, 1: {"image": image, "input_ids": ids[:5]}}
    assert places_by_shapes(examples) == [[0, 1]]  # shorter texts are padded
    batch = stacked(examples.values())
    assert batch["input_ids"].shape == (2, 7)
    assert not batch["input_ids"][1, 5:].any()
    larger = {0: examples[0], 1: {"image": np.zeros((4, 5, 3), np.uint8), "input_ids": ids}}
    assert places_by_shapes(larger) == [[0], [1]]
    assert {name: values.shape for name, values in stacked([examples[0]] * 2).items()} == {
        "image": (2, 4, 4, 3),
        "input_ids": (2, 7),
    }


def test_a_specification_names_its_axes() -> None:
    spec = TensorSpec("input_ids", "int64", ("batch", "sequence"))
    assert str(spec) == "input_ids: int64 [batch, sequence]"
    assert spec.fits(np.zeros((2, 9), np.int64))
    assert not any(spec.fits(array) for array in (np.zeros((2, 9)), np.zeros(9, np.int64), np.zeros((0, 9), np.int64)))
