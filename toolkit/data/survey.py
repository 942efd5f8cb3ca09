"""What the pixels of a data set's images are like: their range, and which of them stand out."""

from __future__ import annotations

from pathlib import Path

from toolkit.data.brightness import Brightness
from toolkit.data.inspection import Inspected
from toolkit.data.value_ranges import ValueRanges
from toolkit.errors import ToolkitError
from toolkit.runtime.value_range import Range


class Survey:
    """Collects what inspecting images showed.

    Args:
        given: the recipe's ``data.value_range``.
    """

    def __init__(self, given: Range | None) -> None:
        self._ranges, self._brightness, self._names = ValueRanges(given), Brightness(), list[str]()

    def add(self, name: str, inspected: Inspected) -> None:
        """Note one image; an unreadable one has no pixels."""
        if inspected.spread is None:
            return
        if inspected.found:
            self._ranges.add(Path(name), inspected.found)
        self._brightness.add(inspected.spread, inspected.found, self._ranges.given)
        self._names.append(name)

    def value_range(self, where: Path) -> Range | None:
        """What black and white are; None if no image has more than 8 bits, or each says it by its format.

        Raises:
            ToolkitError: no rule fits, images need different ranges, or nearly all decode to almost nothing.
        """
        chosen = self._ranges.chosen(where)
        nothing = self._brightness.almost_nothing(chosen)
        if nothing:
            found = "; ".join(self.value_ranges())
            fix = (
                f"set data.value_range='[low, high]' to black and white in the files; now: {found}"
                if found
                else "write the images again, so that their values fill 0 to 255"
            )
            raise ToolkitError(nothing, where=where, fix=fix)
        return chosen

    def value_ranges(self) -> dict[str, int]:
        """What images of more than 8 bits hold and are read as, in words: {description: images}."""
        return self._ranges.described()

    def unlike_the_rest(self, where: Path) -> tuple[list[Path], list[Path]]:
        """Images that are darker and flatter than the rest; see :meth:`Brightness.unlike_the_rest`."""
        try:
            chosen = self._ranges.chosen(where)
        except ToolkitError:  # value_range says so; the others can be compared all the same
            chosen = None
        darker, flatter = self._brightness.unlike_the_rest(chosen)
        return [Path(self._names[place]) for place in darker], [Path(self._names[place]) for place in flatter]
