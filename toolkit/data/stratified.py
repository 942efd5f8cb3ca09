"""Splits of images with several labels each: every label in proportion, rare ones first.

Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011), algorithm 1, with a rule
of its own where an image fits several splits: the number that it drew decides as long as that split still wants images
of the label, so that most images stay where they are while others come and go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol


class Drawn(Protocol):
    """What stays together, with the number that it drew from [0, 1) and the strata of its images."""

    @property
    def number(self) -> float:
        """See :func:`toolkit.data.splits.draw`."""

    @property
    def counts(self) -> Counter[int]:
        """Images by stratum."""


def stratified(
    units: Sequence[Drawn], shares: Mapping[str, float], bands: Mapping[str, tuple[float, float]]
) -> list[str]:
    """The split of each unit.

    Args:
        units: in the order of their numbers.
        shares: of each split; they sum up to 1.
        bands: by split, from which number on and below which one a unit is of it, as long as there is room.
    """
    totals = Counter[int]()
    for unit in units:
        totals.update(unit.counts)
    wanted = {split: {stratum: share * count for stratum, count in totals.items()} for split, share in shares.items()}
    room = {split: share * len(units) for split, share in shares.items()}
    chosen: list[str] = [""] * len(units)
    members: dict[int, list[int]] = {stratum: [] for stratum in totals}
    for place, unit in enumerate(units):
        for stratum in unit.counts:
            members[stratum].append(place)
    left = dict(totals)
    while left:
        rarest = min(left, key=lambda stratum: (left[stratum], stratum))
        for place in members[rarest]:
            if chosen[place]:
                continue
            unit = units[place]
            split = _split_of(unit.number, wanted, room, rarest, bands)
            chosen[place] = split
            room[split] -= 1
            for stratum, count in unit.counts.items():
                wanted[split][stratum] -= count
                if stratum in left:
                    left[stratum] -= count
        del left[rarest]
    return chosen


def _split_of(
    number: float,
    wanted: Mapping[str, Mapping[int, float]],
    room: Mapping[str, float],
    stratum: int,
    bands: Mapping[str, tuple[float, float]],
) -> str:
    """The split whose band holds the number, if it wants more of the stratum; else the one that wants most."""
    own = next(split for split, (low, high) in bands.items() if low <= number < high)
    if wanted[own][stratum] >= 1:
        return own
    return max(wanted, key=lambda split: (wanted[split][stratum], room[split], split))
