from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.data.augment import Augment
from toolkit.data.dataset import ImageDataset, Key, Loader, default_workers
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.runtime.decode import UnreadableImageError, decode
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.preprocess import Preprocess

PREPROCESS = Preprocess(resize="squash", size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
EVERYTHING = DataConfig(
    path=Path(), augment=["crop", "random_resized_crop", "flip_horizontal", "flip_vertical", "rand_augment"]
)


@pytest.fixture(scope="module")
def examples(color_data: Path) -> list[LabelledImage]:
    return open_data(DataConfig(path=color_data)).splits["train"]


def dataset_of(examples: Sequence[LabelledImage], seed: int = 0) -> ImageDataset:
    return ImageDataset(examples, PREPROCESS, Augment(EVERYTHING, (16, 16)), seed)


def keys_of(dataset: ImageDataset, epoch: int = 1) -> list[Key]:
    return [(epoch, index) for index in range(len(dataset))]


def test_without_augmentation_a_batch_is_the_decoded_and_preprocessed_files(examples: list[LabelledImage]) -> None:
    dataset = ImageDataset(examples, PREPROCESS)
    assert len(dataset) == len(examples)
    batch = dataset.__getitems__(keys_of(dataset))
    expected = np.stack([PREPROCESS(decode(example.path)) for example in examples])
    assert np.array_equal(batch["inputs"]["pixel_values"].numpy(), expected)
    assert batch["labels"].tolist() == [example.label for example in examples]
    assert batch["seconds"] > 0


def test_augmentation_is_a_function_of_seed_epoch_and_index(examples: list[LabelledImage]) -> None:
    forwards, backwards = dataset_of(examples, seed=5), dataset_of(examples, seed=5)
    seen = {key: forwards.pixel_values(key) for key in keys_of(forwards, epoch=3)}
    assert all(torch.equal(backwards.pixel_values(key), seen[key]) for key in reversed(seen))


@pytest.mark.parametrize(("epoch", "seed"), [(4, 5), (3, 6)], ids=["other-epoch", "other-seed"])
def test_another_epoch_or_seed_gives_other_pixels(examples: list[LabelledImage], epoch: int, seed: int) -> None:
    one, other = dataset_of(examples, seed=5), dataset_of(examples, seed=seed)
    assert not any(
        torch.equal(one.pixel_values((3, index)), other.pixel_values((epoch, index))) for index in range(len(examples))
    )


def test_the_same_image_at_another_index_gives_other_pixels(examples: list[LabelledImage]) -> None:
    dataset = dataset_of([examples[0]] * 8)
    distinct = {dataset.pixel_values(key).numpy().tobytes() for key in keys_of(dataset)}
    assert len(distinct) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_what_was_asked_in_that_order_each_time(examples: list[LabelledImage], workers: int) -> None:
    dataset = dataset_of(examples)
    loader = Loader(dataset, workers)
    for asked in ([[(1, 3), (1, 0)], [(2, 3)]], [[(4, 7)]], []):
        batches = list(loader.read(asked))
        assert len(batches) == len(asked)
        for batch, keys in zip(batches, asked, strict=True):
            assert torch.equal(
                batch["inputs"]["pixel_values"], torch.stack([dataset.pixel_values(key) for key in keys])
            )
            assert batch["labels"].tolist() == [examples[index].label for _, index in keys]


def test_workers_stand_beside_a_gpu_alone() -> None:
    assert default_workers(on_gpu=False) == 0
    assert 1 <= default_workers(on_gpu=True) <= min(8, usable_cores())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_damaged_later_is_the_same_error_in_a_worker(
    color_data: Path, tmp_path: Path, workers: int
) -> None:
    data = Path(shutil.copytree(color_data, tmp_path / "data"))
    dataset = ImageDataset(open_data(DataConfig(path=data)).splits["train"], PREPROCESS)
    damaged = dataset.examples[5].path
    damaged.write_bytes(b"no image any more")
    loader = Loader(dataset, workers)
    with pytest.raises(UnreadableImageError) as caught:
        list(loader.read([[(1, 0)], [(1, 4), (1, 5)], [(1, 6)]]))
    loader.close()
    assert type(caught.value) is UnreadableImageError
    assert caught.value.reason == "not an image that Pillow knows"
    what = f"unreadable image: not an image that Pillow knows (at {damaged}); replace or remove the file"
    assert caught.value.as_line() == what


class Killed(ImageDataset):
    """Its worker ends as one that the system kills when memory is short."""

    def pixel_values(self, key: Key) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().pixel_values(key)


def test_a_worker_that_is_killed_is_one_line(examples: list[LabelledImage]) -> None:
    loader = Loader(Killed(examples, PREPROCESS), 1)
    with pytest.raises(ToolkitError, match=r"DataLoader worker \(pid") as caught:
        list(loader.read([[(1, 0)]]))
    loader.close()
    assert "loader_workers" in caught.value.as_line()
