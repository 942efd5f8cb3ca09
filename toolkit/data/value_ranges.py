"""What black and white are in a data set's images of more than 8 bits: one range for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.runtime.samples import Samples
from toolkit.runtime.value_range import Range, number, range_by_rule, range_in_words

NAMED = 3
"""Images that a message names."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the values of one image of more than 8 bits are."""

    kind: str
    whole_numbers: bool
    low: float
    high: float
    stated: Range | None
    fixed: bool
    inverted: bool

    @classmethod
    def of(cls, samples: Samples) -> Found:
        """What is worth remembering of an image's values.

        Raises:
            ValueError: one of them is no finite number.
        """
        low, high = samples.extremes()
        return cls(samples.kind, samples.whole_numbers, low, high, samples.stated, samples.fixed, samples.inverted)


@dataclass
class _Group:
    """Images of one kind."""

    kind: str
    whole_numbers: bool
    fixed: Range | None
    images: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    stated: set[Range | None] = field(default_factory=set)
    """Two are as good as many: they differ."""
    names: list[str] = field(default_factory=list)

    def add(self, path: Path, found: Found) -> None:
        self.images += 1
        self.low, self.high = min(self.low, found.low), max(self.high, found.high)
        if len(self.stated) < 2:
            self.stated.add(found.stated)
        if len(self.names) < NAMED:
            self.names.append(path.name)

    @property
    def named(self) -> str:
        more = f" and {self.images - len(self.names):,} more" if self.images > len(self.names) else ""
        return f"{', '.join(self.names)}{more}"


class ValueRanges:
    """Collects what images hold, and decides on the range.

    A ``given`` range is taken for all. Else, whole numbers and floats each by themselves: what all files state, if
    they state the same (where statements differ, they are each image's own extremes), else the rule on the smallest
    and the largest value of all. A format's own statement, such as 12 bits, holds for its file.
    """

    def __init__(self, given: Range | None) -> None:
        self.given = given
        self._groups: dict[tuple[str, Range | None], _Group] = {}

    def add(self, path: Path, found: Found) -> None:
        """Note one image."""
        fixed = found.stated if found.fixed else None
        group = self._groups.setdefault((found.kind, fixed), _Group(found.kind, found.whole_numbers, fixed))
        group.add(path, found)

    def chosen(self, where: Path) -> Range | None:
        """The range of the data set; None if no image needs one, or each file says its own by its format.

        Raises:
            ToolkitError: no rule fits, or images need different ranges.
        """
        if not self._groups or self.given:
            return self.given
        read_as = {key: self._read_as(group) for key, group in self._groups.items()}
        for key, group in self._groups.items():
            if read_as[key] is None:
                low, high = self._extremes(self._alike(group))
                what = (
                    f"{group.images:,} {group.kind} images ({group.named}) hold values from {number(group.low)} to "
                    f"{number(group.high)}, and no rule says what is black and white in them"
                )
                fix = f"set data.value_range='[low, high]', such as data.value_range='{range_in_words((low, high))}'"
                raise ToolkitError(what, where=where, fix=fix)
        ranges = {value_range for value_range in read_as.values() if value_range}
        if all(group.fixed for group in self._groups.values()):
            return None
        if len(ranges) > 1:
            listed = "; ".join(
                f"{group.images:,} {group.kind} images ({group.named}) are {range_in_words(value_range)}"
                for group, value_range in zip(self._groups.values(), read_as.values(), strict=True)
                if value_range
            )
            fix = "store them in one kind, or set data.value_range='[low, high]' for all of them"
            raise ToolkitError(f"no one range fits all images of more than 8 bits: {listed}", where=where, fix=fix)
        return ranges.pop()

    def described(self) -> dict[str, int]:
        """What was found and what it is read as, in words, with the number of images."""
        return {self._in_words(group): group.images for group in self._groups.values()}

    def _in_words(self, group: _Group) -> str:
        read_as = self.given or self._read_as(group)
        stated = next(iter(group.stated)) if len(group.stated) == 1 else None
        said = (
            f", {range_in_words(stated)} stated" if stated else ", statements differ" if len(group.stated) > 1 else ""
        )
        end = f"read as {range_in_words(read_as)}" if read_as else "read as nothing: no rule fits"
        return f"{group.kind}, {number(group.low)} to {number(group.high)} found{said}, {end}"

    def _read_as(self, group: _Group) -> Range | None:
        if group.fixed:
            return group.fixed
        alike = self._alike(group)
        stated = set[Range | None]().union(*(each.stated for each in alike))
        if len(stated) == 1 and (same := next(iter(stated))):
            return same
        return range_by_rule(*self._extremes(alike), whole_numbers=group.whole_numbers)

    def _alike(self, group: _Group) -> list[_Group]:
        """The groups that share a range with this one."""
        return [each for each in self._groups.values() if each.whole_numbers == group.whole_numbers and not each.fixed]

    @staticmethod
    def _extremes(groups: Iterable[_Group]) -> Range:
        groups = list(groups)
        return min(group.low for group in groups), max(group.high for group in groups)
