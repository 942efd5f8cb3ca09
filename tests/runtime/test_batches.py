"""Batches hold so many bytes, whatever the images' sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_graph import LABELS

from toolkit.runtime.batches import images_a_batch, places_by_shape, stacked, windows


@pytest.mark.parametrize(("image_bytes", "images"), [(1, 32), (2, 32), (10, 6), (64, 1), (65, 1), (10**9, 1)])
def test_a_batch_has_as_many_images_as_fit_and_at_least_one(image_bytes: int, images: int) -> None:
    assert images_a_batch(image_bytes, 32, budget=64) == images


def test_windows_keep_the_order_the_count_and_the_budget() -> None:
    rng = np.random.default_rng(0)
    arrays = [np.zeros(size, np.uint8) for size in rng.integers(1, 80, 200)]
    found = list(windows(iter(arrays), 5, budget=100))
    assert [id(array) for window in found for array in window] == list(map(id, arrays))
    for window in found:
        assert len(window) <= 5
        assert len(window) == 1 or sum(array.nbytes for array in window) <= 100
    for window, following in itertools.pairwise(found):  # as few as can be
        assert len(window) == 5 or sum(array.nbytes for array in (*window, following[0])) > 100


def test_what_is_no_array_counts_no_bytes() -> None:
    assert next(iter(windows([*LABELS, np.zeros(9)], 4, budget=1)))[:3] == LABELS
    assert list(windows([], 4)) == []


def test_a_single_image_is_not_copied() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert np.shares_memory(stacked([image]), image)
    assert stacked([image, image]).shape == (2, 4, 5, 3)
    assert places_by_shape({7: image, 8: image[:2], 9: image}) == [[7, 9], [8]]
