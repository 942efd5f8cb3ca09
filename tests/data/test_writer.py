from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data.source import open_data
from toolkit.data.writer import SHARES, EncodedImage, write_dataset
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

ABOUT = {"name": "noise", "licence": "CC0"}
PER_CLASS = 40


def noise_images() -> list[EncodedImage]:
    rng = np.random.default_rng(0)
    images = []
    for index in range(2 * PER_CLASS):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(stream, "PNG")
        images.append(EncodedImage(f"{index:02d}.png", "ab"[index % 2], stream.getvalue()))
    return images


def content_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_image_is_written_once_byte_for_byte(tmp_path: Path) -> None:
    images = noise_images()
    about = write_dataset(tmp_path / "data", images, ABOUT, seed=0)
    written = content_of(tmp_path / "data")
    del written["dataset.json"]
    assert {name.partition("/")[0] for name in written} == {"train", "val", "test"}
    assert len(written) == len(images)
    assert {name.partition("/")[2]: content for name, content in written.items()} == {
        f"{image.label}/{image.name}": image.content for image in images
    }
    assert about["images"] == len(images)


def test_what_is_returned_is_written_and_is_what_training_finds(tmp_path: Path) -> None:
    about = write_dataset(tmp_path / "data", noise_images(), ABOUT, seed=3)
    source = open_data(DataConfig(path=tmp_path / "data"))
    assert json.loads((tmp_path / "data" / "dataset.json").read_text()) == source.about == about
    assert about.items() >= ABOUT.items()
    assert (about["classes"], about["counts"], about["fingerprint"], about["split_seed"]) == (
        source.classes,
        source.counts(),
        source.fingerprint,
        3,
    )
    assert source.counts() == {
        split: dict.fromkeys("ab", round(share * PER_CLASS))
        for split, share in {
            "train": 1 - sum(SHARES.values()),
            "validation": SHARES["val"],
            "test": SHARES["test"],
        }.items()
    }


def test_a_data_set_is_a_function_of_its_images_and_seed(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_dataset(tmp_path / name, noise_images(), ABOUT, seed=seed)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "again")
    assert set(content_of(tmp_path / "one")) != set(content_of(tmp_path / "other"))


def test_an_existing_data_set_is_replaced_only_if_asked(tmp_path: Path) -> None:
    dest = tmp_path / "data"
    write_dataset(dest, noise_images(), ABOUT, seed=0)
    before = content_of(dest)
    with pytest.raises(ToolkitError, match="a data set is there already"):
        write_dataset(dest, noise_images(), ABOUT, seed=1)
    assert content_of(dest) == before
    write_dataset(dest, noise_images(), ABOUT, seed=1, force=True)
    assert content_of(dest) != before
    assert list(tmp_path.iterdir()) == [dest]


def test_an_image_that_can_not_be_decoded_leaves_nothing(tmp_path: Path) -> None:
    images = [*noise_images(), EncodedImage("bad.png", "a", b"no image")]
    with pytest.raises(ToolkitError, match="unreadable image"):
        write_dataset(tmp_path / "deep" / "data", images, ABOUT, seed=0)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_class_too_small_to_split_leaves_nothing(tmp_path: Path) -> None:
    images = [*noise_images(), EncodedImage("alone.png", "c", noise_images()[0].content)]
    with pytest.raises(ToolkitError, match="can't hold out") as caught:
        write_dataset(tmp_path / "data", images, ABOUT, seed=0)
    assert caught.value.where == str(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
