"""Images of different splits that look alike: copies in another size or compression, or the next frame of a film.

An image's perceptual hash has 64 bits (imagehash's ``phash``: which of its lowest frequencies are above their
median). Two that differ in at most ``FARTHEST`` bits are equal in one of ``FARTHEST + 1`` bands of the hash, so
that only images that share a band are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

FARTHEST = 3
"""Bits in which two hashes may differ."""
NEIGHBOURS = 128
"""Hashes of a band that each is compared with, which bounds the work where thousands share one (blank images)."""
SIDE = 32
"""Pixels that an image's short side keeps before it is hashed."""
EXAMPLES = 5
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class NearDuplicates:
    """Images that have a near-duplicate in another split, and the first pairs of them."""

    images: int
    examples: list[tuple[int, int]]
    """Places of the images in the list given."""


def perceptual_hasher() -> Callable[[Image.Image], int] | None:
    """A function from an image to its hash of 64 bits; None where ``imagehash`` isn't installed."""
    try:
        import imagehash
    except ModuleNotFoundError:
        return None

    def hashed(image: Image.Image) -> int:
        smaller = min(image.size) // SIDE
        image = image.reduce(smaller) if smaller > 1 else image  # the exact resampling of a large image takes long
        return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes())

    return hashed


def near_duplicates(hashes: Sequence[int], contents: Sequence[str], splits: Sequence[str]) -> NearDuplicates:
    """Find images of different splits whose hashes are near each other; equal contents don't count.

    Args:
        hashes: each image's perceptual hash.
        contents: each image's SHA-256.
        splits: each image's split.
    """
    distinct, which = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    first: dict[tuple[int, str], int] = {}  # an image for each hash and split, to compare with
    members: dict[int, list[int]] = {}
    for index, (number, split) in enumerate(zip(which.tolist(), splits, strict=True)):
        first.setdefault((number, split), index)
        members.setdefault(number, []).append(index)
    near: dict[int, set[int]] = {number: {number} for number in members}
    for one, other in _pairs(distinct):
        near[one].add(other)
        near[other].add(one)
    names, found, examples = sorted(set(splits)), 0, list[tuple[int, int]]()
    for number in sorted(members):
        others = [first[other, split] for other in sorted(near[number]) for split in names if (other, split) in first]
        for index in members[number]:
            pair = (i for i in others if splits[i] != splits[index] and contents[i] != contents[index])
            match = next(pair, None)
            if match is not None:
                found += 1
                if len(examples) < EXAMPLES and (match, index) not in examples:
                    examples.append((index, match))
    return NearDuplicates(found, examples)


def _pairs(hashes: Hashes) -> Iterator[tuple[int, int]]:
    """Places of different hashes that are near each other; a pair may come more than once."""
    bits = 64 // (FARTHEST + 1)
    for band in range(FARTHEST + 1):
        key = (hashes >> np.uint64(bits * band)) & np.uint64(2**bits - 1)
        order = np.argsort(key, kind="stable")
        ordered, keys = hashes[order], key[order]
        for apart in range(1, min(NEIGHBOURS, len(hashes) - 1) + 1):
            same = keys[apart:] == keys[:-apart]
            if not same.any():
                break
            close = np.bitwise_count(ordered[apart:] ^ ordered[:-apart]) <= FARTHEST
            for place in np.flatnonzero(same & close).tolist():
                yield int(order[place]), int(order[place + apart])
