"""How well the scores of every class rank images, one class against the rest, and the means over the classes."""

# N images

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolkit.metrics.intervals import Array
from toolkit.metrics.ranking import ClassRanking, rank_class


@dataclass(frozen=True)
class Ranking:
    """Means over the classes of what :class:`ClassRanking` holds of each, and the curves."""

    places: npt.NDArray[np.int64]
    """The images that were ranked, as indices into the split."""
    auroc: float
    average_precision: float
    auroc_influence: Array
    average_precision_influence: Array
    by_class: dict[int, ClassRanking]
    """Without its influences, which take N numbers a class."""


def rank_classes(
    places: npt.NDArray[np.int64], classes: int, of_class: Callable[[int], tuple[Array, npt.NDArray[np.bool_]]]
) -> Ranking:
    """Rank images by every class in turn.

    Args:
        places: the images.
        classes: how many.
        of_class: scores of these images by a class, and whether each is of it.
    """
    influences, by_class = np.zeros((2, len(places))), {}
    sums, counted = np.zeros(2), np.zeros(2)
    for index in range(classes):
        found = rank_class(*of_class(index))
        values = np.array([found.auroc, found.average_precision])
        there = np.isfinite(values)
        sums[there] += values[there]
        counted += there
        for row, influence in enumerate((found.auroc_influence, found.average_precision_influence)):
            if there[row]:
                influences[row] += influence
        by_class[index] = found.without_influences()
    with np.errstate(invalid="ignore"):
        means, influences = sums / counted, influences / np.maximum(counted, 1)[:, None]
    return Ranking(places, float(means[0]), float(means[1]), influences[0], influences[1], by_class)
