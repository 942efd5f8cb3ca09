"""The torch dataset and its loaders: file -> decode -> augment -> ``pixel_values``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from toolkit.config import Augmentation
from toolkit.data.source import Example
from toolkit.runtime.decode import UnreadableImageError, decode
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.preprocess import Preprocess


class Batch(TypedDict):
    """``pixel_values`` [batch, 3, height, width], ``labels`` [batch], ``indices`` [batch] into the split."""

    pixel_values: Tensor
    labels: Tensor
    indices: Tensor


class ImageDataset(Dataset[Batch]):
    """Images of one split as the encoder takes them.

    Augmentation depends on (seed, epoch, index) alone, not on workers or the order of reading.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        preprocess: Preprocess,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
    ) -> None:
        self.examples, self.preprocess, self.augment, self.seed = examples, preprocess, augment, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Batch:
        example = self.examples[index]
        image = decode(example.path)
        if self.augment:
            image = augmented(image, self.augment, np.random.default_rng((self.seed, self.epoch, index)))
        try:
            pixel_values = torch.from_numpy(self.preprocess(image))
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, where=example.path) from error
        return {"pixel_values": pixel_values, "labels": torch.tensor(example.label), "indices": torch.tensor(index)}


class EpochSampler(Sampler[int]):
    """A permutation that is a function of (seed, epoch)."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist())


def augmented(image: Image.Image, augment: Sequence[Augmentation], rng: np.random.Generator) -> Image.Image:
    """Apply the named random changes to an RGB image."""
    if "crop" in augment:
        width, height = (max(1, round(side * rng.uniform(0.8, 1.0))) for side in image.size)
        left = int(rng.integers(0, image.width - width + 1))
        top = int(rng.integers(0, image.height - height + 1))
        image = image.crop((left, top, left + width, top + height))
    if "flip_horizontal" in augment and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if "flip_vertical" in augment and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def build_loader(dataset: ImageDataset, batch_size: int, sampler: EpochSampler | None = None) -> DataLoader[Batch]:
    """A loader in the sampler's order, or in the split's own."""
    on_gpu = torch.cuda.is_available()
    workers = loader_workers(on_gpu)
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, pin_memory=on_gpu)


def loader_workers(on_gpu: bool) -> int:
    """Worker processes: up to 8 of the cores beside a GPU; none where the cores compute the model itself."""
    return min(8, max(1, usable_cores() - 1)) if on_gpu else 0
