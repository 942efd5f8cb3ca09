"""Write a data set as image folders with a ``dataset.json`` that says where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.listing import named
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.files import staged_folder, write_json
from toolkit.recipe.data import DataConfig

SHARES = {"test": 0.2, "val": 0.15}
"""Shares of all images by folder; the rest is for training."""


@dataclass(frozen=True)
class EncodedImage:
    """An image file to be: its name, class and content."""

    name: str
    label: str
    content: bytes


def write_dataset(
    dest: Path, images: Sequence[EncodedImage], about: dict[str, Any], *, seed: int, force: bool = False
) -> dict[str, Any]:
    """Split images by class into ``train/ val/ test/`` and write them, whole or not at all.

    Args:
        dest: folder to be.
        images: all images.
        about: what ``dataset.json`` says of the source and its licence.
        seed: seed of the split.
        force: replace a data set that is already there.

    Returns:
        The content of ``dataset.json``: ``about`` with counts, split seed and fingerprint.

    Raises:
        ToolkitError: a class of fewer than three images, or an image that can't be decoded.
    """
    train, held = _divided(images, seed, dest)
    with staged_folder(dest, what="data set", marker="dataset.json", replace=force) as stage:
        for split, members in {"train": train, **held}.items():
            for image in members:
                path = stage / split / image.label / image.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image.content)
        source = open_data(DataConfig(path=stage))
        content = about | {
            "classes": source.classes,
            "images": len(images),
            "counts": source.counts(),
            "split_seed": seed,
            "fingerprint": source.fingerprint,
        }
        write_json(stage / "dataset.json", content)
    return content


def _divided(
    images: Sequence[EncodedImage], seed: int, where: Path
) -> tuple[list[EncodedImage], dict[str, list[EncodedImage]]]:
    """What is for training, and what is held out by folder, each class in proportion.

    scikit-learn's rule stays here, where the data sets come from that metrics are compared on: the
    same images land in the same folders as ever. Other data is divided by :mod:`toolkit.data.splits`.
    """
    from sklearn.model_selection import train_test_split

    counts = Counter(image.label for image in images)
    small = [f"{label} ({count})" for label, count in sorted(counts.items()) if count <= len(SHARES)]
    fix = "write more images of them"
    if small:
        what = f"can't hold out {' and '.join(SHARES)}: classes of fewer than {len(SHARES) + 1} images: {named(small)}"
        raise ToolkitError(what, where=where, fix=fix)
    rest, remaining, held = list(range(len(images))), 1.0, {}
    for folder, share in SHARES.items():
        labels = [images[index].label for index in rest]
        try:
            _, out = train_test_split(rest, test_size=share / remaining, random_state=seed, stratify=labels)
        except ValueError as error:
            what = f"can't hold out {share:.0%} of each class for {folder}: {len(images)} images are too few"
            raise ToolkitError(what, where=where, fix=fix) from error
        chosen = set(out)
        held[folder] = [images[index] for index in rest if index in chosen]
        rest = [index for index in rest if index not in chosen]
        remaining -= share
    return [images[index] for index in rest], held
