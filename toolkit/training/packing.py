"""Activations of several towers as one row an image, for the boundary cache."""

# B batch

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.training.activation_source import ActivationSource
from toolkit.training.batch_schedule import MicroBatch
from toolkit.training.stopwatch import Stopwatch


@dataclass(frozen=True)
class Packing:
    """Where the tensors of a state lie in a row.

    Activations of one tower are a tensor, and their row is what it holds for an image, as it is. Whole numbers and
    truth values come back as they were from any of the cache's types, being small.
    """

    names: tuple[tuple[str, ...], ...]
    """The way to each tensor through nested dictionaries; the empty one alone where the state is a tensor."""
    shapes: tuple[tuple[int, ...], ...]
    """Of each tensor, without the batch."""
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, state: Any) -> Packing:
        """The packing of states like this one."""
        found = dict(_tensors(state, ()))
        return cls(
            tuple(found),
            tuple(tuple(tensor.shape[1:]) for tensor in found.values()),
            tuple(tensor.dtype for tensor in found.values()),
        )

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self.shapes[0] if self.names == ((),) else (sum(map(math.prod, self.shapes)),)

    def pack(self, state: Any) -> Tensor:
        """Rows [B, ...] of a state."""
        if self.names == ((),):
            return state  # type: ignore[no-any-return]
        found = dict(_tensors(state, ()))
        return torch.cat([found[name].reshape(len(found[name]), -1).float() for name in self.names], dim=1)

    def unpack(self, rows: Tensor) -> Any:
        """The state that rows [B, ...] hold, its activations in float32."""
        if self.names == ((),):
            return rows
        parts = rows.split([math.prod(shape) for shape in self.shapes], dim=1)
        state: dict[str, Any] = {}
        for (*way, last), shape, dtype, part in zip(self.names, self.shapes, self.dtypes, parts, strict=True):
            inner = state
            for name in way:
                inner = inner.setdefault(name, {})
            values = part.reshape(len(part), *shape)
            inner[last] = values.to(dtype) if not dtype.is_floating_point else values
        return state


class Packed:
    """A source whose activations come packed."""

    def __init__(self, source: ActivationSource, packing: Packing) -> None:
        self.source, self.packing = source, packing

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Feed micro-batches."""
        return ((self.packing.pack(state), labels) for state, labels in self.source(batches, watch))


class Unpacked:
    """A source of packed rows whose activations come as the classifier takes them."""

    def __init__(self, source: ActivationSource, packing: Packing) -> None:
        self.source, self.packing = source, packing

    def __call__(self, batches: Iterable[MicroBatch], watch: Stopwatch) -> Iterator[tuple[Any, Tensor]]:
        """Feed micro-batches."""
        return ((self.packing.unpack(rows), labels) for rows, labels in self.source(batches, watch))


def _tensors(state: Any, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(state, Tensor):
        yield way, state
        return
    for name, inner in state.items():
        yield from _tensors(inner, (*way, name))
