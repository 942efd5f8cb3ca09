"""Pictures of a colour and texts that name one, in manifests: what takes texts learns from them in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 210)}
SPLITS = ("train", "train", "validation", "test")


def write_pairs(folder: Path) -> Path:
    """Coloured noise and the name of a colour: the label says whether both are of the same colour."""
    rng = np.random.default_rng(0)
    rows = ["path,caption,label,split"]
    for number in range(96):
        shown, split = list(COLOURS)[number % 3], SPLITS[number // 3 % 4]
        named = shown if number % 2 else list(COLOURS)[(number + 1 + number // 2 % 2) % 3]
        pixels = np.clip(rng.normal(COLOURS[shown], 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f'{number}.png,"{_caption(named, number)}",{"same" if shown == named else "other"},{split}')
    return _written(folder / "pairs.csv", rows)


def write_texts(folder: Path) -> Path:
    """Texts alone; the label is the colour that they name."""
    rows = ["caption,label,split"]
    for number in range(96):
        named = list(COLOURS)[number % 3]
        rows.append(f'"{_caption(named, number)} {number}",{named},{SPLITS[number // 3 % 4]}')
    return _written(folder / "texts.csv", rows)


def write_label_sets(folder: Path) -> Path:
    """Halves of two colours, and none, one or both of them as labels: noise where there is none."""
    rng = np.random.default_rng(0)
    rows = ["path,labels,split"]
    for number in range(96):
        names = [name for place, name in enumerate(("red", "blue")) if number >> place & 1]
        pixels = rng.uniform(0, 255, (32, 32, 3))
        for place, name in enumerate(names):
            pixels[:, 16 * place : 16 * place + 16] = rng.normal(COLOURS[name], 20, (32, 16, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{';'.join(names)},{SPLITS[number // 4 % 4]}")
    return _written(folder / "sets.csv", rows)


def _caption(named: str, number: int) -> str:
    return f"a {named} picture" if number % 5 else f"this picture is {named}, and the text is a longer one"


def _written(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path
