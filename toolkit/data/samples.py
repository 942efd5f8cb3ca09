"""The samples of a split in columns: a million take a hundred megabytes, and are there again as soon as they are read.

As objects they would take ten times that in every process, and seconds to make. One is made when it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import Content, NoImage, WholeFile
from toolkit.data.shard_index import FilePart
from toolkit.data.target import Label
from toolkit.data.texts import sample_hash
from toolkit.runtime.value_range import Range

# N samples

Column = npt.NDArray[Any]
OWN_FILE, NO_IMAGE = -1, -2
"""In the place of the number of a file of several images."""
HASH_BYTES = 32


@dataclass(frozen=True, eq=False)
class Strings:
    """Strings one behind the other, and where each ends."""

    encoded: bytes
    ends: Column
    """int64 [N]."""

    @classmethod
    def of(cls, values: Iterable[str]) -> Strings:
        """Any strings, file names that are no Unicode among them."""
        encoded = [value.encode(errors="surrogatepass") for value in values]
        return cls(b"".join(encoded), np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64))

    def __getitem__(self, place: int) -> str:
        start = int(self.ends[place - 1]) if place else 0
        return self.encoded[start : int(self.ends[place])].decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield self.encoded[start:end].decode(errors="surrogatepass")
            start = end

    def __bool__(self) -> bool:
        return bool(self.encoded)


@dataclass(frozen=True, eq=False)
class Contents:
    """Where the images of samples lie: each in a file of its own, in a part of one, or nowhere."""

    files: list[str]
    """That hold several."""
    file: Column
    """int32 [N]: a place among them, ``OWN_FILE`` or ``NO_IMAGE``."""
    offset: Column
    """int64 [N], bytes."""
    length: Column
    """int64 [N], bytes."""

    @classmethod
    def of(cls, contents: Sequence[Content]) -> Contents:
        """Columns of contents that are whole files, parts of files, or none."""
        places: dict[Path, int] = {}
        file, offset, length = (np.zeros(len(contents), kind) for kind in (np.int32, np.int64, np.int64))
        for row, content in enumerate(contents):
            if isinstance(content, FilePart):
                file[row] = places.setdefault(content.path, len(places))
                offset[row], length[row] = content.offset, content.length
            else:
                file[row] = NO_IMAGE if isinstance(content, NoImage) else OWN_FILE
        return cls(list(map(str, places)), file, offset, length)

    def at(self, row: int, name: str) -> Content:
        """The content of a sample of that name."""
        place = int(self.file[row])
        if place >= 0:
            return FilePart(Path(self.files[place]), int(self.offset[row]), int(self.length[row]))
        return WholeFile(name) if place == OWN_FILE else NoImage()


@dataclass(frozen=True, eq=False)
class Samples(Sequence[LabelledImage]):
    """The samples of a split in their order; the same as a list of :class:`LabelledImage`."""

    names: Strings
    """Where each lies; see :attr:`LabelledImage.path`."""
    labels: Column
    """Indices into the classes [N]; 0 or 1 for each class, uint8 [N, classes]; or numbers [N]."""
    hashes: Column
    """SHA-256 of the images, uint8 [N, 32]; zeros where there is none."""
    groups: Strings
    texts: Strings
    has_text: Column
    """Whether a sample has a text, however short: bool [N]."""
    contents: Contents | Sequence[Content]
    """As they are where they are of other kinds than :class:`Contents` knows."""
    value_range: Range | None = None

    @classmethod
    def of(cls, images: Sequence[LabelledImage]) -> Samples:
        """The columns of samples."""
        contents = [image.content for image in images]
        known = all(isinstance(content, (FilePart, NoImage, WholeFile)) for content in contents)
        names = [image.content.name if isinstance(image.content, WholeFile) else str(image.path) for image in images]
        known = known and all(image.path == Path(name) for image, name in zip(images, names, strict=True))
        hashes = b"".join(bytes.fromhex(image.sha256) or bytes(HASH_BYTES) for image in images)
        several = bool(images) and isinstance(images[0].label, tuple)
        return cls(
            Strings.of(names if known else [str(image.path) for image in images]),
            labels_of(images).astype(np.uint8) if several else labels_of(images),
            np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            Strings.of(image.group for image in images),
            Strings.of(image.text or "" for image in images),
            np.fromiter((image.text is not None for image in images), bool, len(images)),
            Contents.of(contents) if known else contents,
            images[0].value_range if images else None,
        )

    def __len__(self) -> int:
        return len(self.has_text)

    @overload
    def __getitem__(self, place: int) -> LabelledImage: ...

    @overload
    def __getitem__(self, place: slice) -> list[LabelledImage]: ...

    def __getitem__(self, place: int | slice) -> LabelledImage | list[LabelledImage]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        name, content = self.names[row], self.contents
        return LabelledImage(
            Path(name),
            self._label(row),
            content.at(row, name) if isinstance(content, Contents) else content[row],
            self._sha256(row),
            self.groups[row],
            self.value_range,
            self.texts[row] if self.has_text[row] else None,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def read_as(self, value_range: Range | None) -> Samples:
        """The same samples with another range."""
        return replace(self, value_range=value_range)

    @property
    def has_images(self) -> bool:
        """Whether every sample is more than a text."""
        if isinstance(self.contents, Contents):
            return bool((self.contents.file != NO_IMAGE).all())
        return not any(isinstance(content, NoImage) for content in self.contents)

    def identities(self) -> list[str]:
        """:attr:`LabelledImage.identity` of each."""
        digits, step = self.hashes.tobytes().hex(), 2 * HASH_BYTES
        hashes = [digits[start : start + step] for start in range(0, len(digits), step)]
        if not self.has_text.any():
            return hashes
        return [
            sample_hash(hash_ if hash_.strip("0") else "", text if there else None)
            for hash_, text, there in zip(hashes, self.texts, self.has_text.tolist(), strict=True)
        ]

    def count_shown(self, shown: Callable[[Label], Iterable[int]]) -> Mapping[int, int]:
        """How many samples show each class.

        Args:
            shown: places of the classes that a label means; see :meth:`toolkit.data.target.Target.shown`.
        """
        counted = Counter[int]()
        rows, numbers = np.unique(self.labels, axis=0, return_counts=True)
        for label, number in zip(rows, numbers.tolist(), strict=True):
            for place in shown(_as_label(label)):
                counted[place] += number
        return counted

    def _label(self, row: int) -> Label:
        return _as_label(self.labels[row])

    def _sha256(self, row: int) -> str:
        value = self.hashes[row].tobytes()
        return value.hex() if any(value) else ""


def _as_label(value: Any) -> Label:
    label = value.tolist()
    return tuple(label) if isinstance(label, list) else label


def labels_of(images: Sequence[LabelledImage]) -> Column:
    """Labels [images], as indices into the classes; 0 or 1 for each class [images, classes]; or numbers [images]."""
    if isinstance(images, Samples):
        return images.labels.astype(np.int64) if images.labels.ndim > 1 else images.labels
    labels = np.array([image.label for image in images])
    return labels if len(labels) else labels.astype(np.int64)


def groups_of(images: Sequence[LabelledImage]) -> list[str] | None:
    """Each image's group, None without groups."""
    if isinstance(images, Samples):
        return list(images.groups) if images.groups else None
    groups = [image.group for image in images]
    return groups if any(groups) else None
