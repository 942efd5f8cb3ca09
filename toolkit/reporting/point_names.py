"""Names beside the points of a plot, each where it covers no marker, no error bar and no other name if it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from toolkit.reporting.plot_style import HALO

Floats = npt.NDArray[np.float64]
"""Mostly boxes [boxes, 4] in pixels: left, bottom, right, top."""
Point = tuple[float, float]
Ends = tuple[Point, Point]
"""Of a point's error bars, in units of the axes: left and right, lower and upper."""
RINGS, FAR = (10.0, 18.0, 30.0, 46.0, 66.0, 90.0, 120.0, 155.0, 190.0), 22.0
"""Distances in points at which a name may stand, and that from which on a line leads to it."""
AROUND = [
    radius * np.array((np.cos(angle), np.sin(angle)))
    for radius in RINGS
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
]
EMPTY = np.empty((0, 4))
"""No boxes."""
NEAR = 0.01
"""Square pixels that a name may cover for standing a point nearer, times the distance in points."""
CROSSING = 10
"""Square pixels that a name may cover for each that a line to a name has in common with something else."""
PASSES = 3
"""Over all names; each is put where it is best among the others."""
GAP, MARK, BAR = 3.0, 5.0, 3.0
"""Points between two names; half the side of a marker; half the width of an error bar."""
FONT_SIZE = 8.5


@dataclass(frozen=True)
class _Name:
    """A name to be placed; all in pixels."""

    place: Floats
    """Of its point [2]."""
    size: Floats
    """Width and height."""
    marks: Floats
    """What the point's marker and error bars take."""
    scale: float
    """Pixels of a point of type."""

    def box(self, offset: Floats) -> Floats:
        """What it takes at an offset [1, 4]."""
        corner = self.place + self.scale * offset - self.size * _aligned(offset)
        return np.concatenate([corner, corner + self.size])[None]

    def padded(self, offset: Floats) -> Floats:
        """The same with a gap around it."""
        grown: Floats = self.box(offset) + GAP * self.scale * np.array((-1, -1, 1, 1))
        return grown

    def leader(self, offset: Floats) -> Floats:
        """The line from the point to it, none where they are near."""
        length = np.hypot(*offset)
        if length <= FAR:
            return EMPTY
        return _line(self.place + MARK * self.scale * offset / length, self.place + self.scale * offset, self.scale)

    def best(self, foreign: Floats, lines: Floats, inside: Floats) -> Floats:
        """The offset where it covers least.

        Args:
            foreign: what else is drawn.
            lines: those that lead to other names.
            inside: of the axes [1, 4].
        """
        costs = []
        for offset in AROUND:
            name, leader = self.box(offset), self.leader(offset)
            lost = float(self.size.prod() - _common(name, inside))
            covered = _common(name, self.marks) + _common(name, foreign)
            crossed = _common(leader, foreign) + _common(leader, lines) + _common(name, lines)
            costs.append(lost + covered + CROSSING * crossed + NEAR * float(offset @ offset))
        return AROUND[int(np.argmin(costs))]


def name_points(
    axes: Axes, points: Sequence[Point], texts: Sequence[str], colors: Sequence[str], ends: Sequence[Ends], line: Any
) -> list[Annotation]:
    """Write a text beside each point; the axes must not move afterwards.

    Args:
        axes: with all that is drawn.
        points: in its units.
        texts: what is written.
        colors: of the texts.
        ends: of the points' error bars.
        line: points of a line that is drawn too.
    """
    figure: Any = axes.figure
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    names = []
    for text, point, bars in zip(texts, points, ends, strict=True):
        label = _label(axes, text, point, "black", AROUND[0])
        box = label.get_window_extent(renderer)
        label.remove()
        size = np.array((box.width, box.height))
        names.append(_Name(axes.transData.transform(point), size, _marks(axes, point, bars, scale), scale))
    inside = np.array([axes.get_window_extent(renderer).extents])
    dashes = [_line(start, end, scale) for start, end in pairwise(axes.transData.transform(line))]
    chosen: dict[int, Floats] = {}
    for _ in range(PASSES):  # the first of them stood where the others did not yet
        for index, name in enumerate(names):
            others = [(names[other], offset) for other, offset in chosen.items() if other != index]
            marks = [other.marks for other in names if other is not name]
            foreign = np.concatenate([*marks, *dashes, *(other.padded(offset) for other, offset in others), EMPTY])
            lines = np.concatenate([*(other.leader(offset) for other, offset in others), EMPTY])
            chosen[index] = name.best(foreign, lines, inside)
    offsets = (chosen[index] for index in range(len(names)))
    return [_label(axes, *each) for each in zip(texts, points, colors, offsets, strict=True)]


def _marks(axes: Axes, point: Point, ends: Ends, scale: float) -> Floats:
    """What a marker and its error bars take."""
    (left, low), (right, high) = axes.transData.transform(list(zip(*ends, strict=True)))
    x, y = axes.transData.transform(point)
    mark, bar = MARK * scale, BAR * scale
    return np.array(
        (
            (x - mark, y - mark, x + mark, y + mark),
            (left, y - bar, right, y + bar),
            (x - bar, low, x + bar, high),
        )
    )


def _line(start: Floats, end: Floats, scale: float) -> Floats:
    """A thin line as small boxes along it."""
    steps = np.linspace(start, end, max(2, int(np.hypot(*(end - start)) / (2 * scale))))[1:]
    return np.concatenate([steps - scale / 2, steps + scale / 2], axis=1)


def _aligned(offset: Floats) -> Floats:
    """Which part of a text [of its width, of its height] stands where an offset leads to: 0, a half, or 1."""
    direction = offset / np.hypot(*offset)
    return np.where(np.abs(direction) < 0.35, 0.5, direction < 0)


def _common(boxes: Floats, others: Floats) -> float:
    """The area that boxes share with others, in square pixels."""
    one, other = boxes[:, None], others[None]
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    return float(np.clip(high - low, 0, None).prod(axis=-1).sum())


def _label(axes: Axes, text: str, point: Point, color: str, offset: Floats) -> Annotation:
    """A text, which a line leads to from where it stands apart."""
    right, up = offset
    across, along = (float(part) for part in _aligned(offset))
    line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4, "relpos": (across, along)}
    return axes.annotate(
        text,
        point,
        (float(right), float(up)),
        textcoords="offset points",
        color=color,
        fontsize=FONT_SIZE,
        linespacing=1.15,
        path_effects=list(HALO),
        ha={0.0: "left", 0.5: "center", 1.0: "right"}[across],
        va={0.0: "bottom", 0.5: "center", 1.0: "top"}[along],
        annotation_clip=False,
        arrowprops=line if np.hypot(*offset) > FAR else None,
    )
