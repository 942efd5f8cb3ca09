from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from toolkit.config import Augmentation, DataConfig
from toolkit.data.dataset import EpochSampler, ImageDataset, augmented, build_loader, loader_workers
from toolkit.data.source import Example, open_data
from toolkit.runtime.decode import decode
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.preprocess import Preprocess

PREPROCESS = Preprocess(resize="squash", size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
EVERYTHING: tuple[Augmentation, ...] = ("crop", "flip_horizontal", "flip_vertical")


@pytest.fixture(scope="module")
def examples(color_data: Path) -> list[Example]:
    return open_data(DataConfig(path=color_data)).splits["train"]


def dataset_of(examples: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> ImageDataset:
    dataset = ImageDataset(examples, PREPROCESS, EVERYTHING, seed)
    dataset.epoch = epoch
    return dataset


def coordinates(height: int, width: int) -> Image.Image:
    """An image whose red and green say where a pixel stood."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], axis=-1))


def test_without_augmentation_an_item_is_the_decoded_and_preprocessed_file(examples: list[Example]) -> None:
    dataset = ImageDataset(examples, PREPROCESS)
    assert len(dataset) == len(examples)
    for index, example in enumerate(examples):
        item = dataset[index]
        assert np.array_equal(item["pixel_values"].numpy(), PREPROCESS(decode(example.path)))
        assert (item["labels"].item(), item["indices"].item()) == (example.label, index)


def test_augmentation_is_a_function_of_seed_epoch_and_index(examples: list[Example]) -> None:
    forwards, backwards = dataset_of(examples, epoch=3, seed=5), dataset_of(examples, epoch=3, seed=5)
    seen = {index: forwards[index]["pixel_values"] for index in range(len(examples))}
    assert all(torch.equal(backwards[index]["pixel_values"], seen[index]) for index in reversed(range(len(examples))))


@pytest.mark.parametrize(("epoch", "seed"), [(4, 5), (3, 6)], ids=["other-epoch", "other-seed"])
def test_another_epoch_or_seed_gives_other_pixels(examples: list[Example], epoch: int, seed: int) -> None:
    one, other = dataset_of(examples, epoch=3, seed=5), dataset_of(examples, epoch=epoch, seed=seed)
    assert not any(
        torch.equal(one[index]["pixel_values"], other[index]["pixel_values"]) for index in range(len(examples))
    )


def test_the_same_image_at_another_index_gives_other_pixels(examples: list[Example]) -> None:
    dataset = dataset_of([examples[0]] * 8)
    distinct = {dataset[index]["pixel_values"].numpy().tobytes() for index in range(8)}
    assert len(distinct) == 8


def test_worker_processes_give_what_none_give(examples: list[Example]) -> None:
    batches = [
        torch.cat([batch["pixel_values"] for batch in DataLoader(dataset_of(examples), 5, num_workers=workers)])
        for workers in (0, 2)
    ]
    assert torch.equal(*batches)


@pytest.mark.parametrize(
    ("augment", "turned"),
    [
        ("flip_horizontal", Image.Transpose.FLIP_LEFT_RIGHT),
        ("flip_vertical", Image.Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_a_flip_gives_the_image_or_its_mirror_image(augment: Augmentation, turned: Image.Transpose) -> None:
    image = coordinates(21, 34)
    results = {augmented(image, [augment], np.random.default_rng(seed)).tobytes() for seed in range(32)}
    # all 32 on one side would be a chance of 2 ** -31
    assert results == {image.tobytes(), image.transpose(turned).tobytes()}


@pytest.mark.parametrize(("height", "width"), [(21, 34), (100, 7), (1, 1)])
def test_a_crop_is_a_window_of_80_to_100_percent_of_the_sides(height: int, width: int) -> None:
    image = coordinates(height, width)
    for seed in range(100):
        window = np.asarray(augmented(image, ["crop"], np.random.default_rng(seed)))
        top, left = window[0, 0, :2].astype(int)
        rows, columns = window.shape[:2]
        assert np.array_equal(window, np.asarray(image)[top : top + rows, left : left + columns])
        # a side is rounded to a pixel
        assert 0.8 * height - 0.5 <= rows <= height
        assert 0.8 * width - 0.5 <= columns <= width


def test_without_augmentation_the_image_stays_as_it_is() -> None:
    assert augmented(coordinates(5, 6), [], np.random.default_rng(0)).tobytes() == coordinates(5, 6).tobytes()


@pytest.mark.parametrize("length", [0, 1, 2, 50])
def test_an_epoch_sees_every_index_once(length: int) -> None:
    sampler = EpochSampler(length, seed=0)
    assert len(sampler) == length
    assert sorted(sampler) == list(range(length))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = EpochSampler(50, seed)
        sampler.epoch = epoch
        first, again = tuple(sampler), tuple(sampler)
        assert first == again
        return first

    orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert orders == {key: order(*key) for key in orders}
    assert len(set(orders.values())) == len(orders)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_loader_gives_every_item_in_the_samplers_order(examples: list[Example], shuffled: bool) -> None:
    dataset = ImageDataset(examples, PREPROCESS)
    sampler = EpochSampler(len(examples), seed=1) if shuffled else None
    batches = list(build_loader(dataset, 5, sampler))
    order = list(sampler) if sampler else list(range(len(examples)))
    assert [len(batch["labels"]) for batch in batches] == [5] * 7 + [1]
    assert torch.cat([batch["indices"] for batch in batches]).tolist() == order
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [examples[index].label for index in order]
    expected = torch.stack([dataset[index]["pixel_values"] for index in order])
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), expected)


def test_workers_stand_beside_a_gpu_alone() -> None:
    assert loader_workers(on_gpu=False) == 0
    assert 1 <= loader_workers(on_gpu=True) <= min(8, usable_cores())
