"""Drawn shapes with captions that say what they show, or say it wrong: a manifest with texts.

The label, ``match`` or ``mismatch``, depends on image and caption together. In every split each colour and shape is
shown as often beside a true caption as beside a false one, and is named as often in either, so that the image alone
says nothing of the label, and the caption alone neither.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from toolkit.data.drawings import COLORS, NEUTRALS, SHAPES, SIZES, Scene, draw
from toolkit.data.source import open_data
from toolkit.files import staged_folder, write_json
from toolkit.recipe.data import ColumnsConfig, DataConfig

MANIFEST = "captions.csv"
COLUMN = "caption"
"""What the texts' column is called: ``data.columns.text``."""
BLOCKS = {"train": 12, "validation": 3, "test": 6}
"""By split: how often each colour and shape is drawn twice, once for either label; a third of the false captions names
another colour, a third another shape, and a third both."""
POSITIONS = ("center", "top", "bottom", "left", "right", "top left", "top right", "bottom left", "bottom right")
OPENINGS = ("", "a photo of ", "a drawing of ", "a picture of ", "an image of ")
ABOUT = {
    "name": "captioned",
    "source": "drawn by this package (toolkit.data.drawings)",
    "licence": "Apache-2.0",
    "note": "64x64 drawings of one shape; match = the caption names its colour and shape, mismatch = it names others",
    "manifest": MANIFEST,
    "text_column": COLUMN,
}
T = TypeVar("T")
Thing = tuple[str, str]
"""A colour and a shape."""


class Sample(NamedTuple):
    """What an image shows, and what its caption says that it does."""

    split: str
    shown: Thing
    said: Thing

    @property
    def label(self) -> str:
        """Whether they are the same."""
        return "match" if self.shown == self.said else "mismatch"


def write_captioned(dest: Path, *, seed: int = 0, force: bool = False) -> dict[str, Any]:
    """Write ``captions.csv`` and ``images/``; return the content of ``dataset.json``.

    Raises:
        ToolkitError: something else lies there.
    """
    rng = np.random.default_rng(seed)
    samples = [sample for split, blocks in BLOCKS.items() for sample in samples_of(split, blocks, rng)]
    order = rng.permutation(len(samples)).tolist()  # neither names nor rows tell the label
    with staged_folder(dest, what="data set", marker="dataset.json", replace=force) as stage:
        (stage / "images").mkdir()
        with io.StringIO(newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(("path", COLUMN, "label", "split"))
            for number, place in enumerate(order):
                sample, own = samples[place], np.random.default_rng((seed, number))
                scene = _scene(sample.shown, own)
                path = Path("images", f"{number:05d}.png")
                draw(scene, own).save(stage / path)
                writer.writerow((path.as_posix(), caption(scene, sample.said, own), sample.label, sample.split))
            (stage / MANIFEST).write_text(table.getvalue(), encoding="utf-8")
        source = open_data(DataConfig(path=stage / MANIFEST, columns=ColumnsConfig(text=COLUMN)))
        content = ABOUT | {
            "classes": source.classes,
            "images": len(samples),
            "counts": source.counts(),
            "split_seed": seed,
            "fingerprint": source.fingerprint,
        }
        write_json(stage / "dataset.json", content)
    return content


def samples_of(split: str, blocks: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Every colour and shape ``blocks`` times beside its own name and as often beside another's."""
    for block in range(blocks):
        shapes = _deranged(SHAPES, rng) if block % 3 != 0 else dict(zip(SHAPES, SHAPES, strict=True))
        colors = _deranged(tuple(COLORS), rng) if block % 3 != 1 else {color: color for color in COLORS}
        for shown in ((color, shape) for color in COLORS for shape in SHAPES):
            yield Sample(split, shown, shown)
            yield Sample(split, shown, (colors[shown[0]], shapes[shown[1]]))


def _deranged(things: tuple[str, ...], rng: np.random.Generator) -> dict[str, str]:
    """Another one for each of them, each once."""
    while True:
        order = rng.permutation(len(things)).tolist()
        if all(place != other for place, other in enumerate(order)):
            return {thing: things[other] for thing, other in zip(things, order, strict=True)}


def _scene(shown: Thing, rng: np.random.Generator) -> Scene:
    size = str(rng.choice(list(SIZES)))
    position = "center" if size == "large" else str(rng.choice(POSITIONS))
    pattern = str(rng.choice(("plain", "gradient", "striped", "noisy"), p=(0.55, 0.15, 0.15, 0.15)))
    return Scene("shape", shown[1], shown[0], size, position, str(rng.choice(list(NEUTRALS))), pattern, "sans")


def caption(scene: Scene, said: Thing, rng: np.random.Generator) -> str:
    """One of many sentences that name a colour and a shape; what else they say of the scene is true."""
    size, position, background = rng.random(3) < 0.3
    text = f"{scene.size} {said[0]} {said[1]}" if size else f"{said[0]} {said[1]}"
    if position:
        text += " in the center" if scene.position == "center" else f" at the {scene.position}"
    if background:
        text += f" on a {scene.background} background"
    article = "an" if text[0] in "aeiou" else "a"
    return f"{rng.choice(OPENINGS)}{article} {text}"
