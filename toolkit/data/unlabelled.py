"""Images without labels as a data set: those of a folder, or generated ones where there are none at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.data.formats import format_of, list_data
from toolkit.data.labelled_image import UNLABELLED, LabelledImage
from toolkit.data.listing import SPLITS, Content, WholeFile
from toolkit.data.samples import Samples
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.runtime.image_files import expand, files_in
from toolkit.runtime.value_range import Range

GENERATED = 96
"""Images that are generated: a third for each split."""
SIZES = ((64, 64), (96, 128), (200, 150), (224, 224), (240, 320), (333, 517))
"""Height and width of generated images."""
SEED = 0


@dataclass(frozen=True, slots=True)
class InMemory:
    """An encoded image that lies in no file."""

    content: bytes

    def read(self) -> bytes:
        """The bytes."""
        return self.content


def is_plain_folder(path: Path) -> bool:
    """Whether images lie directly in a folder, so that no folder names their class."""
    return path.is_dir() and format_of(path) == "folder" and bool(files_in(path).names)


def unlabelled_images(path: Path, value_range: Range | None = None) -> DataSource:
    """All images of a folder, or of a data set in any format, without their labels, in three even splits.

    Args:
        path: of the folder or the data set.
        value_range: what black and white are in images of more than 8 bits.

    Raises:
        ToolkitError: no image there.
    """
    if path.is_dir() and format_of(path) == "folder":
        contents: dict[Path, Content] = {each: WholeFile(str(each)) for each in map(Path, expand([path]))}
    else:
        contents = {item.path: item.content for item in list_data(DataConfig(path=path)).items}
    return _without_labels(path, [(name, contents[name]) for name in sorted(contents)], value_range)


def generated_images() -> DataSource:
    """Smooth colours with edges and grain in several sizes, always the same: they show that two programs agree, and
    nothing of how good either is.
    """
    rng, images = np.random.default_rng(SEED), []
    for number in range(GENERATED):
        height, width = SIZES[number % len(SIZES)]
        coarse = rng.uniform(0, 255, (rng.integers(2, 9), rng.integers(2, 9), 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth).astype(np.float64)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        pixels[top : top + height // 3, left : left + width // 3] = rng.uniform(0, 255, 3)
        pixels += rng.normal(0, rng.uniform(0, 20), pixels.shape)
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
        images.append((Path(f"generated-{number:03d}.png"), InMemory(file.getvalue())))
    return _without_labels(Path("generated"), images, None)


def _without_labels(root: Path, contents: Sequence[tuple[Path, Content]], value_range: Range | None) -> DataSource:
    if not contents:
        raise ToolkitError("there is no image", where=root, fix="give a folder of images")
    images = [LabelledImage(path, UNLABELLED, content, value_range=value_range) for path, content in contents]
    few = len(images) < len(SPLITS)
    splits = {split: Samples.of(images if few else images[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)}
    return DataSource(root, [], splits, fingerprint="")
