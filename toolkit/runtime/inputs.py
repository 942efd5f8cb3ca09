"""What a graph takes: named tensors, one example or a batch of them, bounded in bytes.

An *example* is one image (and what goes with it) without a batch axis; a *feed* holds examples of
the same shapes, stacked. Batches are bounded in bytes because 32 photographs of 12 megapixels take
gigabytes, and 32 icons nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array]
"""Tensors by name: ``image`` [height, width, 3], ``pixel_values`` [3, height, width], ``input_ids`` [sequence]."""
Feed = Mapping[str, Array]
"""The same with the batch in front."""
IMAGE_MASK = "image_mask"
"""Whether an image is there, of a graph that allows it to be missing: 0 or 1 an example."""
INPUT_IDS = "input_ids"
"""Tokens of a text."""
TEXT = "text"
"""What a server that tokenizes calls a text: an input of the protocol, or the field of a form."""
RAGGED = frozenset({INPUT_IDS, "attention_mask"})
"""Inputs of which examples of different lengths may share a batch: shorter ones get zeros behind them, which nothing
reads."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
BATCH_BYTES = 64 << 20
"""Most bytes of a graph's inputs in one run, but for an example that is larger by itself.

A graph that resizes inside takes about 25 bytes a pixel while it runs, so this is about half a gigabyte.
"""
T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a graph takes or gives."""

    name: str
    dtype: str
    """numpy's name of the type, such as ``uint8``."""
    shape: tuple[int | str | None, ...]
    """The batch first; an axis of any length has a name."""

    def fits(self, array: Array) -> bool:
        """Whether an array is of this type and shape and holds something."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and 0 not in array.shape
            and all(
                have == wanted for have, wanted in zip(array.shape, self.shape, strict=True) if isinstance(wanted, int)
            )
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


def examples_in(feed: Feed) -> int:
    """Examples in a feed."""
    return len(next(iter(feed.values())))


def bytes_of(tensors: Inputs | Feed) -> int:
    """Bytes that the tensors hold."""
    return sum(tensor.nbytes for tensor in tensors.values())


def shapes_of(tensors: Inputs | Feed) -> Shapes:
    """The shape of each tensor."""
    return tuple(sorted((name, tensor.shape) for name, tensor in tensors.items()))


def batch_key(example: Inputs) -> Shapes:
    """What examples have in common that can stand in one batch: their shapes, but for the lengths of texts."""
    return tuple(sorted((name, () if name in RAGGED else tensor.shape) for name, tensor in example.items()))


def part_of(feed: Feed, places: Any) -> Feed:
    """Some examples of a feed, by a slice or by their places."""
    return {name: tensor[places] for name, tensor in feed.items()}


def batches_of(feed: Feed, size: int) -> Iterator[Feed]:
    """A feed in batches of a size, the last one smaller."""
    return (part_of(feed, slice(start, start + size)) for start in range(0, examples_in(feed), size))


def stacked(examples: Iterable[Inputs]) -> Feed:
    """A batch of examples of the same shapes, but for the lengths of texts; a single one is not copied."""
    taken = list(examples)
    if len(taken) == 1:
        return {name: tensor[None] for name, tensor in taken[0].items()}
    return {name: (_padded if name in RAGGED else np.stack)([example[name] for example in taken]) for name in taken[0]}


def _padded(rows: Sequence[Array]) -> Array:
    """Rows of any lengths as one array, with zeros behind shorter ones."""
    batch = np.zeros((len(rows), max(map(len, rows))), rows[0].dtype)
    for place, row in enumerate(rows):
        batch[place, : len(row)] = row
    return batch


def images_a_batch(example_bytes: int, most: int, budget: int = BATCH_BYTES) -> int:
    """How many examples of some size a batch of up to ``most`` holds, at least one."""
    return max(1, min(most, budget // max(1, example_bytes)))


def windows(
    examples: Iterable[T], most: int, budget: int = BATCH_BYTES, stretch: int | None = None
) -> Iterator[list[T]]:
    """Cut a stream into lists of consecutive things, as few as the budget allows.

    Args:
        examples: examples, or anything else, which counts no bytes.
        most: things in a list.
        budget: bytes that the tensors of a list hold together; an example that is larger stands alone.
        stretch: things of a stretch. A list ends with its stretch, and after every ``most`` things of it, full or not:
            what it holds follows from these things alone, however large those before them are.
    """
    window, held = list[T](), 0
    for place, example in enumerate(examples):
        size = bytes_of(example) if isinstance(example, Mapping) else 0
        ends = len(window) == most if stretch is None else place % stretch % most == 0
        if window and (ends or held + size > budget):
            yield window
            window, held = [], 0
        window.append(example)
        held += size
    if window:
        yield window


def places_by_shapes(examples: Mapping[int, Inputs]) -> list[list[int]]:
    """Keys of examples that can stand in one batch, in order."""
    groups: dict[Shapes, list[int]] = {}
    for place, example in examples.items():
        groups.setdefault(batch_key(example), []).append(place)
    return list(groups.values())
