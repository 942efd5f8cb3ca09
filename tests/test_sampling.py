"""Evenly spaced places: what stands for all of a listing that is sorted by class."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.sampling import evenly_spaced


@pytest.mark.parametrize(
    ("count", "wanted", "places"),
    [(10, 3, [0, 3, 6]), (2, 8, [0, 1]), (1, 8, [0]), (0, 8, []), (5, 5, [0, 1, 2, 3, 4]), (7, 0, [])],
)
def test_places(count: int, wanted: int, places: list[int]) -> None:
    assert evenly_spaced(count, wanted).tolist() == places


@pytest.mark.parametrize("count", [11, 100, 1_000_003])
@pytest.mark.parametrize("wanted", [1, 2, 7, 11])
def test_neighbours_lie_as_far_apart_as_any(count: int, wanted: int) -> None:
    gaps = np.diff(np.append(evenly_spaced(count, wanted), count))
    assert gaps.max() - gaps.min() <= 1
    assert gaps.sum() == count
