"""The torch dataset and its loader: file -> decode -> augment -> ``pixel_values``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from toolkit.data.augment import Augment
from toolkit.data.labelled_image import LabelledImage
from toolkit.errors import ToolkitError
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.preprocess import Preprocess

GRACE_SECONDS = 60
"""How long a loader's worker stays after SIGTERM."""
Key = tuple[int, int]
"""(epoch, index into the split): all that an image's pixels depend on beside the seed."""


class Batch(TypedDict):
    """Images as the encoder takes them, and texts where it takes some.

    ``inputs``, of them ``pixel_values`` [batch, 3, height, width] unless it takes texts alone; ``labels`` [batch]; and
    the seconds that decoding, preprocessing and tokenizing took.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    seconds: float


class TextReader(Protocol):
    """Makes tensors of texts, the batch first; :class:`toolkit.models.text_inputs.TextInputs` does."""

    @property
    def alone(self) -> bool:
        """Whether no images are read beside the texts."""

    def __call__(self, texts: Sequence[str | None]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` of texts, of which some may be missing."""


class ImageDataset(Dataset["Batch | ToolkitError"]):
    """Images of one split as the encoder takes them, a batch at a time.

    Augmentation depends on (seed, epoch, index) alone, not on workers or the order of reading.
    A batch is read by as many threads as the process has cores (a loader's worker has one):
    Pillow gives up Python's lock while it decodes and resizes.
    """

    def __init__(
        self,
        examples: Sequence[LabelledImage],
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        texts: TextReader | None = None,
    ) -> None:
        self.examples, self.preprocess, self.augment, self.seed = examples, preprocess, augment, seed
        self.texts = texts

    def __len__(self) -> int:
        return len(self.examples)

    def pixel_values(self, key: Key) -> Tensor:
        """One image [3, height, width]."""
        epoch, index = key
        example = self.examples[index]
        image = example.decode(grey=True)
        if self.augment:
            image = self.augment(image, np.random.default_rng((self.seed, epoch, index)))
        try:
            return torch.from_numpy(self.preprocess(image))
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, where=example.path) from error

    def __getitems__(self, keys: Sequence[Key]) -> Batch | ToolkitError:
        """A batch; in a loader's worker a user's mistake comes back as it is.

        torch would make another exception of one that is raised there, with the worker's traceback as its text.
        """
        if get_worker_info() is None:
            return self._batch(keys, threads=min(len(keys), reading_threads()))
        try:
            return self._batch(keys, threads=1)
        except ToolkitError as error:
            return error

    def _batch(self, keys: Sequence[Key], threads: int) -> Batch:
        started = time.perf_counter()
        inputs = {} if self.texts is not None and self.texts.alone else {"pixel_values": self._images(keys, threads)}
        if self.texts is not None:
            inputs |= self.texts([self.examples[index].text for _, index in keys])
        labels = torch.tensor([self.examples[index].label for _, index in keys])
        return {"inputs": inputs, "labels": labels, "seconds": time.perf_counter() - started}

    def _images(self, keys: Sequence[Key], threads: int) -> Tensor:
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                return torch.stack(list(pool.map(self.pixel_values, keys)))
        return torch.stack([self.pixel_values(key) for key in keys])


class Loader:
    """Reads batches of keys, in worker processes where that helps; these live from the first read to :meth:`close`.

    Args:
        dataset: what is read.
        workers: worker processes; chosen from the machine if None.
        device: where the images will go; memory is pinned for a GPU.
    """

    def __init__(self, dataset: ImageDataset, workers: int | None = None, device: torch.device | None = None) -> None:
        self.dataset, self.on_gpu = dataset, device is not None and device.type == "cuda"
        self.workers = default_workers(self.on_gpu) if workers is None else workers
        self._queue = _Queue()
        self._loader: DataLoader[Batch | ToolkitError] | None = None

    def read(self, batches: Iterable[Sequence[Key]]) -> Iterator[Batch]:
        """One batch for each list of keys, in order.

        Raises:
            ToolkitError: an image that can't be read, whichever process reads it; a worker process that was killed.
        """
        self._queue.batches = batches
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                batch_sampler=self._queue,
                num_workers=self.workers,
                collate_fn=_as_it_is,  # type: ignore[arg-type]
                pin_memory=self.on_gpu,
                persistent_workers=self.workers > 0,
                worker_init_fn=_leave_signals_to_the_trainer,
            )
        return _checked(iter(self._loader))

    def close(self) -> None:
        """Let the worker processes go, also in the middle of a read; the next read starts new ones."""
        workers = getattr(self._loader, "_iterator", None)  # dropping it is not enough where a traceback holds it
        if workers is not None:
            workers._shutdown_workers()
        self._loader = None


def _checked(batches: Iterator[Batch | ToolkitError]) -> Iterator[Batch]:
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            fix = "if memory or /dev/shm is short, set training.loader_workers lower, or 0"
            raise ToolkitError(str(error), where="training.loader_workers", fix=fix) from error
        if batch is None:
            return
        if isinstance(batch, ToolkitError):
            raise batch
        yield batch


class _Queue:
    """The keys that a loader shall read next."""

    batches: Iterable[Sequence[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return (list(keys) for keys in self.batches)


def _as_it_is(batch: Batch | ToolkitError) -> Batch | ToolkitError:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; a worker must outlive the last checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":  # where a signal reaches no other process, and there is no alarm
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def default_workers(on_gpu: bool) -> int:
    """Worker processes: up to 8 of this process's cores beside a GPU; none where the cores compute the model."""
    return min(8, max(1, cores_of_this_process() - 1)) if on_gpu else 0


def reading_threads() -> int:
    """Threads that read a batch where no worker process does."""
    return cores_of_this_process()


def cores_of_this_process() -> int:
    """The usable cores, shared among the processes that a launcher started on this machine."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
