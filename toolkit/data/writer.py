"""Write a data set as image folders with a ``dataset.json`` that says where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import DataConfig
from toolkit.data.source import open_data
from toolkit.data.splits import hold_out_splits
from toolkit.files import staged_folder, write_json

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
    """
    classes = sorted({image.label for image in images})
    train, held = hold_out_splits(images, lambda image: classes.index(image.label), SHARES, seed, dest)
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
