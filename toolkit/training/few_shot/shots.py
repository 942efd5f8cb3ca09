"""Which training images a seed draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError


@dataclass(frozen=True)
class Shots:
    """A few training images of each class."""

    count: int
    """Of each class."""
    seed: int
    places: Tensor
    """In the training split [classes * count], class after class."""


def draw(labels: Tensor, classes: int, count: int, seed: int) -> Shots:
    """Draw ``count`` images of each class without putting any back; more shots of a seed hold its fewer ones.

    Args:
        labels: of the training split [images].
        classes: how many there are.
        count: images a class.
        seed: of the draw.
    """
    rng, places = np.random.default_rng(seed), []
    for label in range(classes):
        members = np.flatnonzero(labels.numpy() == label)
        places.append(rng.permutation(members)[:count])
    return Shots(count, seed, torch.from_numpy(np.concatenate(places)))


def require_shots(data: DataSource, most: int) -> None:
    """Refuse more shots than the smallest class has.

    Raises:
        ToolkitError: with the class, and how many images it has.
    """
    counts = data.counts()["train"]
    smallest = min(counts, key=lambda name: counts[name])
    if counts[smallest] < most:
        what = f"{most} shots were asked for, and class {smallest!r} has {counts[smallest]} training images"
        raise ToolkitError(what, where="--shots", fix=f"ask for {counts[smallest]} or fewer, or add images of it")
