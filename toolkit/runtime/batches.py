"""Batches that are bounded in bytes: 32 photographs of 12 megapixels take gigabytes, 32 icons nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from toolkit.runtime.preprocess import Float32, UInt8

BATCH_BYTES = 64 << 20
"""Most bytes of a graph's input in one run, but for an image that is larger by itself.

A graph that resizes inside takes about 25 bytes a pixel while it runs, so this is about half a gigabyte.
"""
T = TypeVar("T")


def images_a_batch(image_bytes: int, most: int, budget: int = BATCH_BYTES) -> int:
    """How many images of some size a batch of up to ``most`` holds, at least one."""
    return max(1, min(most, budget // max(1, image_bytes)))


def windows(images: Iterable[T], most: int, budget: int = BATCH_BYTES) -> Iterator[list[T]]:
    """Cut a stream into lists of consecutive things, as few as the budget allows.

    Args:
        images: arrays as a graph takes them, or anything else, which counts no bytes.
        most: things in a list.
        budget: bytes that the arrays of a list hold together; an array that is larger stands alone.
    """
    window, held = list[T](), 0
    for image in images:
        size = int(getattr(image, "nbytes", 0))
        if window and (len(window) == most or held + size > budget):
            yield window
            window, held = [], 0
        window.append(image)
        held += size
    if window:
        yield window


def stacked(inputs: Iterable[Float32 | UInt8]) -> Float32 | UInt8:
    """A batch of images of the same size; a single one is not copied."""
    arrays = list(inputs)
    batch: Any = np.stack(arrays) if len(arrays) > 1 else arrays[0][None]
    return batch  # type: ignore[no-any-return]


def places_by_shape(inputs: Mapping[int, Float32 | UInt8]) -> list[list[int]]:
    """Keys of arrays that can stand in one batch, in order: images of the same size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, array in inputs.items():
        groups.setdefault(array.shape, []).append(place)
    return list(groups.values())
