"""JPEGs to compare decisions on: photographs of a folder, or of a run's validation split, that decode smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.latency.pool import SEED
from export.parity.agreement import CONFIDENCE
from toolkit.errors import ToolkitError
from toolkit.metrics.intervals import bounded_interval, images_needed
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError, read_encoded
from toolkit.runtime.examples import ExampleReader, ImageText
from toolkit.runtime.image_files import expand
from toolkit.runtime.reduced_jpeg import ReducedPreprocess
from toolkit.sampling import evenly_spaced
from toolkit.serving.predictor import Deferred

if TYPE_CHECKING:
    from toolkit.data.labelled_image import LabelledImage

AGREEMENT = 0.995
"""Share of decisions that must stay, to the lower end of its confidence interval."""
MOST = 3000
"""Images that are looked at."""


@dataclass(frozen=True)
class Photograph:
    """A JPEG, and its text where the graph takes one; read when its turn comes."""

    name: str
    read: Deferred
    group: str = ""


@dataclass(frozen=True)
class Photographs:
    """JPEGs that are larger than the network needs them."""

    source: str
    """Where they come from, in words."""
    side: int
    """Pixels that each of their sides has at least, and so decodes smaller."""
    jpegs: Sequence[Photograph]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Those that were left out, and why, by name."""

    @property
    def groups(self) -> list[str] | None:
        """Each one's group, whose decisions flip together; None without groups."""
        groups = [each.group for each in self.jpegs]
        return groups if any(groups) else None

    def require_enough(self) -> None:
        """Raise :class:`ToolkitError` where they could prove nothing even if each kept its decision."""
        count, groups = len(self.jpegs), self.groups
        if count and bounded_interval(1.0, np.zeros(count), count, groups, 2 * CONFIDENCE - 1)[0] >= AGREEMENT:
            return
        of_groups = f" in {len(set(groups)):,} groups" if groups else ""
        apart = ", each of another group," if groups else ""
        what = (
            f"{count:,} JPEGs of {self.source}{of_groups} have {self.side} or more pixels on each side and so decode "
            f"smaller; it takes {images_needed(1 - AGREEMENT):,}{apart} without another decision to prove that "
            f"{AGREEMENT:.1%} stay"
        )
        for name, reason in list(self.unreadable.items())[:1]:
            what += f"; {len(self.unreadable):,} more can't be read, such as {name} ({reason})"
        fix = "give more photographs as production sees them with --images"
        raise ToolkitError(what, where="--reduced-jpeg", fix=fix)

    def without(self, unreadable: Mapping[int, str]) -> Photographs:
        """Those that can be read.

        Args:
            unreadable: places of the others, and why they can't.
        """
        names = {self.jpegs[place].name: reason for place, reason in unreadable.items()}
        kept = [each for place, each in enumerate(self.jpegs) if place not in unreadable]
        return Photographs(self.source, self.side, kept, names)


def find_photographs(
    bundle: Bundle,
    kind: str,
    validation: Sequence[LabelledImage] | None,
    images: Path | None,
    progress: Progress = SILENT,
) -> Photographs:
    """JPEGs to compare decisions on, told by their headers.

    Args:
        bundle: opened.
        kind: what its graph takes; see :class:`toolkit.runtime.examples.ExampleReader`.
        validation: the run's validation split, which is taken where no folder is given; None where no run is here.
        images: a folder of images.
        progress: told how many files are looked at.

    Raises:
        ToolkitError: too few images are JPEGs that decode smaller; neither run nor folder; a bundle of texts alone.
    """
    if not bundle.takes_images:
        raise ToolkitError("the bundle takes texts alone, and no image", where="--reduced-jpeg", fix="leave it out")
    progress.stage("looking for JPEGs that decode smaller")
    reader, preprocess = bundle.reader(kind), ReducedPreprocess.of(bundle.preprocess)
    source, found = _in_folder(reader, bundle, images) if images else _held_out(reader, validation)
    jpegs = [each for each in _counted(found, progress) if _is_reducible(each.read, preprocess)]
    photographs = Photographs(source, 2 * max(preprocess.size), jpegs)
    photographs.require_enough()
    return photographs


def _in_folder(reader: ExampleReader, bundle: Bundle, folder: Path) -> tuple[str, list[Photograph]]:
    """Images of a folder in a seeded order; the golden texts beside them in turns, where the graph takes texts."""
    files = expand([folder])
    chosen = np.random.default_rng(SEED).permutation(len(files))[:MOST]
    texts = cycle(bundle.golden().texts or [None]) if reader.takes_text else cycle([None])

    def read(path: Path, text: str | None) -> ImageText:
        return ImageText(read_encoded(path), text)

    found = [Photograph(str(files[place]), partial(read, files[place], next(texts))) for place in sorted(chosen)]
    return str(folder), found


def _held_out(reader: ExampleReader, members: Sequence[LabelledImage] | None) -> tuple[str, list[Photograph]]:
    if members is None:
        fix = "give photographs as production sees them with --images, or the run with --run"
        raise ToolkitError("the run is not here, and no folder is given", where="--reduced-jpeg", fix=fix)
    chosen = [members[place] for place in evenly_spaced(len(members), MOST)]
    found = [Photograph(str(each.path), partial(each.taken_by, reader), each.group) for each in chosen]
    return "the validation split", found


def _counted(photographs: Sequence[Photograph], progress: Progress) -> Iterator[Photograph]:
    for number, each in enumerate(photographs, 1):
        yield each
        progress.done(number, len(photographs))


def _is_reducible(read: Deferred, preprocess: ReducedPreprocess) -> bool:
    """Whether an image's header says that it is a JPEG that decodes smaller."""
    try:
        given = read()
    except UnreadableImageError:
        return False
    return isinstance(given, ImageText) and isinstance(given.image, bytes) and preprocess.reduces(given.image)
