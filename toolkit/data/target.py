"""What is known of an image: its class, several labels, or a number.

A listing holds it as text, as the source wrote it; from there on it is a :data:`Label`, and arrays of labels are what
tasks and metrics take. Which of the three a data set has is said by ``data.columns``.
"""

# N images, C classes

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.labels import natural_order
from toolkit.recipe.data import ColumnsConfig, TargetKind

Label = int | tuple[int, ...] | float
"""A place among the classes; or 1 for each class that an image shows and 0 for the others [C]; or a number."""
Strata = Callable[[Label], tuple[int, ...]]
"""What splits keep the shares of, for an image."""
BINS = 10
"""Quantiles of a number that splits keep the shares of."""


class Target(ABC):
    """One of the three."""

    kind: TargetKind
    every_class_in: tuple[str, ...] = ("train", "validation", "test", "all")
    """Splits that must have an image of each class."""
    fewest_classes = 2
    several_in_one = False
    """Whether an image may show several classes, or none."""

    @abstractmethod
    def named_in(self, text: str) -> Sequence[str]:
        """The classes that a listing's text names."""

    @abstractmethod
    def reader(self, classes: Sequence[str]) -> Callable[[str], Label]:
        """What makes a label of a listing's text."""

    @abstractmethod
    def shown(self, label: Label) -> tuple[int, ...]:
        """Places of the classes that an image shows."""

    def strata(self, labels: Sequence[Label]) -> Strata:
        """What splits keep the shares of; the classes that an image shows, unless there are none."""
        return self.shown

    def written(self, label: Label, classes: Sequence[str]) -> str:
        """A label in words."""
        return ", ".join(classes[place] for place in self.shown(label)) or "no label"

    def key(self, label: Label, classes: Sequence[str]) -> str:
        """A label as fingerprints hold it: whatever the order of the classes, the same labels give the same."""
        return labels_text(classes[place] for place in self.shown(label))


class OneClass(Target):
    """One class an image."""

    kind: TargetKind = "class"

    def named_in(self, text: str) -> Sequence[str]:
        """The text itself."""
        return (text,)

    def reader(self, classes: Sequence[str]) -> Callable[[str], Label]:
        """Places among the classes."""
        return {name: place for place, name in enumerate(classes)}.__getitem__

    def shown(self, label: Label) -> tuple[int, ...]:
        """The class."""
        return (int(label),)  # type: ignore[arg-type]

    def key(self, label: Label, classes: Sequence[str]) -> str:
        """The class."""
        return classes[self.shown(label)[0]]


class SeveralLabels(Target):
    """Any number of labels an image, none too."""

    kind: TargetKind = "labels"
    every_class_in = ("train", "all")
    several_in_one = True

    def named_in(self, text: str) -> Sequence[str]:
        """The labels; see :func:`labels_text`."""
        return names_in(text)

    def reader(self, classes: Sequence[str]) -> Callable[[str], Label]:
        """0 or 1 for each class; equal labels share one tuple, however many images have them."""
        places, known = {name: place for place, name in enumerate(classes)}, dict[str, Label]()

        def read(text: str) -> Label:
            if text not in known:
                there = {places[name] for name in names_in(text)}
                known[text] = tuple(int(place in there) for place in range(len(places)))
            return known[text]

        return read

    def shown(self, label: Label) -> tuple[int, ...]:
        """Where it is 1."""
        return tuple(place for place, there in enumerate(label) if there)  # type: ignore[arg-type]

    def strata(self, labels: Sequence[Label]) -> Strata:
        """The labels; those without any are a stratum of their own, behind the classes."""
        return lambda label: self.shown(label) or (len(label),)  # type: ignore[arg-type]


class Number(Target):
    """A number an image.

    Args:
        name: of the column; it stands in the place of the classes.
    """

    kind: TargetKind = "number"
    fewest_classes = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def named_in(self, text: str) -> Sequence[str]:
        """The number's name."""
        return (self.name,)

    def reader(self, classes: Sequence[str]) -> Callable[[str], Label]:
        """The number; which texts are none, :mod:`toolkit.data.label_cells` found out."""
        return float

    def shown(self, label: Label) -> tuple[int, ...]:
        """The one there is."""
        return (0,)

    def strata(self, labels: Sequence[Label]) -> Strata:
        """The quantile that a number lies in."""
        values = np.array(labels, np.float64)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])) if len(values) else values
        return lambda label: (int(np.searchsorted(edges, label, side="right")),)

    def written(self, label: Label, classes: Sequence[str]) -> str:
        """The number."""
        return f"{label:g}"

    def key(self, label: Label, classes: Sequence[str]) -> str:
        """The number, every digit of it."""
        return repr(label)


ONE_CLASS = OneClass()
SEVERAL_LABELS = SeveralLabels()


def target_of(columns: ColumnsConfig) -> Target:
    """What a data set with such columns says of an image."""
    if columns.number is not None:
        return Number(columns.number)
    return ONE_CLASS if columns.labels is None else SEVERAL_LABELS


def labels_text(names: Iterable[str]) -> str:
    """Several labels as a listing holds them: a JSON list, each once and in order."""
    return json.dumps(sorted(set(names), key=natural_order), ensure_ascii=False)


def names_in(text: str) -> list[str]:
    """What :func:`labels_text` was given."""
    names: list[str] = json.loads(text)
    return names


def number_text(value: float) -> str:
    """A number as a listing holds it.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return repr(float(value))


def require_target(wanted: TargetKind, columns: ColumnsConfig, task: str) -> None:
    """Refuse a data set whose images are labelled in another way than a task takes.

    Raises:
        ToolkitError: with the key that says it.
    """
    has = target_of(columns).kind
    if has == wanted:
        return
    words = {"class": "one class an image", "labels": "several labels an image", "number": "a number an image"}
    keys = {"class": "label", "labels": "labels", "number": "number"}
    what = f"model.task {task} takes {words[wanted]}, and the data has {words[has]}"
    fix = f"name the column that holds them: data.columns.{keys[wanted]}=NAME"
    if wanted == "class":
        fix = f"leave data.columns.{keys[has]} out, or choose another model.task"
    raise ToolkitError(what, where=f"data.columns.{keys[has]}", fix=fix)
