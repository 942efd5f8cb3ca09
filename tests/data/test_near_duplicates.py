from __future__ import annotations

import io
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from toolkit.data.check import check_data
from toolkit.data.near_duplicates import FARTHEST, NEIGHBOURS, near_duplicates, perceptual_hasher
from toolkit.recipe.data import DataConfig

IMAGES = NEIGHBOURS
"""So many that each is compared with all in its band."""


def scene(seed: int, size: int = 96) -> Image.Image:
    """Smooth random shapes, as photographs have."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def by_all_pairs(hashes: list[int], contents: list[str], splits: list[str]) -> int:
    found = set()
    for one, other in combinations(range(len(hashes)), 2):
        near = (hashes[one] ^ hashes[other]).bit_count() <= FARTHEST
        if near and splits[one] != splits[other] and contents[one] != contents[other]:
            found |= {one, other}
    return len(found)


@pytest.mark.parametrize("seed", range(5))
def test_bands_find_what_comparing_all_pairs_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seeds = [int(value) for value in rng.integers(0, 2**63, 40)]
    hashes = []
    for number in rng.integers(0, 40, IMAGES):
        value = seeds[number]
        for bit in rng.integers(0, 64, rng.integers(0, 5)):
            value ^= 1 << int(bit)
        hashes.append(value)
    contents = [str(number) for number in range(IMAGES)]
    splits = [("train", "validation", "test")[number] for number in rng.integers(0, 3, IMAGES)]
    found = near_duplicates(hashes, contents, splits)
    assert found.images == by_all_pairs(hashes, contents, splits) > 0
    for one, other in found.examples:
        assert (hashes[one] ^ hashes[other]).bit_count() <= FARTHEST
        assert splits[one] != splits[other]


def test_equal_contents_and_pairs_within_a_split_do_not_count() -> None:
    assert near_duplicates([7, 7], ["same", "same"], ["train", "test"]).images == 0
    assert near_duplicates([7, 6], ["one", "other"], ["test", "test"]).images == 0
    assert near_duplicates([7, 6], ["one", "other"], ["train", "test"]).images == 2
    assert near_duplicates([], [], []).images == 0
    assert near_duplicates([1], ["a"], ["test"]).images == 0


def test_a_copy_in_another_size_or_compression_looks_alike_and_another_image_does_not() -> None:
    look = perceptual_hasher()
    assert look is not None
    hashes = [look(scene(seed)) for seed in range(30)]
    assert all((one ^ other).bit_count() > FARTHEST for one, other in combinations(hashes, 2))
    for seed, original in enumerate(hashes):
        stream = io.BytesIO()
        scene(seed).save(stream, "JPEG", quality=80)
        for copy in (scene(seed).resize((64, 64)), Image.open(stream), scene(seed).convert("L")):
            assert (look(copy) ^ original).bit_count() <= FARTHEST


def data_with_copies(root: Path) -> Path:
    for seed in range(12):
        split, name = ("train", "val", "test")[seed % 3], "ab"[seed // 3 % 2]
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        scene(seed).save(folder / f"{seed}.png")
    scene(0).save(root / "test" / "a" / "smaller.jpg", quality=85)
    return root


def test_check_counts_near_duplicates_as_a_note(tmp_path: Path) -> None:
    root = data_with_copies(tmp_path)
    report = check_data(DataConfig(path=root))
    pair = {str(root / "train" / "a" / "0.png"), str(root / "test" / "a" / "smaller.jpg")}
    assert report["near_duplicates_across_splits"]["count"] == 2
    assert [set(paths) for paths in report["near_duplicates_across_splits"]["examples"]] == [pair]
    assert report["problems"] == report["duplicates_across_splits"] == []


def test_without_imagehash_they_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    report = check_data(DataConfig(path=data_with_copies(tmp_path)))
    assert report["near_duplicates_across_splits"] is None
    assert report["problems"] == []
