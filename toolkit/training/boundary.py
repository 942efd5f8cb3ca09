"""Where the frozen trunk ends in a run, and what stands there: the trunk itself, or its cache."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL
import torch
import transformers
from accelerate import Accelerator
from torch import nn

from toolkit.data import augment
from toolkit.data.augment import Augment
from toolkit.data.dataset import Loader
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.fp32 import fp32_arithmetic
from toolkit.models.modalities import text_tower_of
from toolkit.models.text_inputs import TextInputs, made_up_inputs
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runtime import decode, preprocess, range_statements, read_samples, samples, value_range
from toolkit.runtime.preprocess import Preprocess
from toolkit.training.activation_source import ActivationSource, PixelSource, ResidentFeed, cached_source
from toolkit.training.boundary_cache import FILL_BATCH, BoundaryCache, Layout
from toolkit.training.cache_fill import fill_cache
from toolkit.training.device_memory import free_device_bytes, that_fit
from toolkit.training.mixing import Mixing
from toolkit.training.packing import Packed, Packing, Unpacked
from toolkit.training.processes import AllRanks
from toolkit.training.progress import console, counting
from toolkit.training.trunk import Trunk, check_trunk_precision

CACHED_SPLITS = ("train", "validation")
"""What every epoch reads; the test split is touched once, when training is over."""


class Boundary:
    """The first group that learns, and the feeds that lead up to it.

    Args:
        classifier: before it is prepared, since a sharded one no longer holds its weights whole.
        preprocess: turns images into ``pixel_values``.
        data: what is trained and validated on.
        recipe: says whether there is a cache, and the trunk's precision.
        accelerator: shares the work among its processes.
        agreement: how these tell each other of failures.
        trunk: runs in place of the classifier's frozen groups; must be given for another precision than fp32.
        texts: make what the classifier takes of texts, if it takes any.
    """

    def __init__(
        self,
        classifier: Classifier,
        preprocess: Preprocess,
        data: DataSource,
        recipe: Recipe,
        accelerator: Accelerator,
        agreement: AllRanks,
        trunk: Trunk | None = None,
        texts: TextInputs | None = None,
    ) -> None:
        precision = recipe.training.trunk_precision
        check_trunk_precision(precision, classifier)
        if (trunk is None) != (precision == "fp32"):
            raise ValueError(f"a trunk in {precision}, but {'none' if trunk is None else 'another one'} was given")
        self.start, self.trunk = classifier.boundary, trunk
        self.preprocess, self.data, self.recipe = preprocess, data, recipe
        self.accelerator, self.agreement = accelerator, agreement
        self.config = recipe.training.boundary_cache
        if self.config.enabled == "auto":
            raise ValueError(
                "nobody decided on training.boundary_cache.enabled: auto; see toolkit.training.cache_choice"
            )
        if self.config.enabled and not self.start:
            fix = "freeze the embeddings and the first layers (model.unfreeze_last), or switch the cache off"
            raise ToolkitError("no group is frozen, so there is nothing to cache", where="model.unfreeze", fix=fix)
        self._texts = {} if texts is None else texts.describe()
        self._trunk = trunk_contents(classifier) if self.config.enabled else {}
        self._packing = self._packing_of(classifier, texts) if self.config.enabled else None
        images = {split: len(data.splits[split]) for split in CACHED_SPLITS}
        self._layout = Layout.of(self.config, images, self._packing.row if self._packing else ())
        if self.config.enabled:
            self._layout.check_budget(self.config.max_gb)
        self._private: Path | None = None
        self._filled: BoundaryCache | None = None
        self._feeds: dict[str, ActivationSource] = {}
        self.free_device_bytes: Callable[[], int] = partial(free_device_bytes, accelerator.device)
        """Asked when the cache is filled, before the first step."""
        self.on_device: dict[str, int] = {}
        """Bytes of the cached splits that lie in the device's memory."""

    def feeds(
        self,
        model: nn.Module,
        loaders: Mapping[str, Loader],
        mixing: Mixing | None,
        run: RunFolder,
        stop_if_asked: Callable[[], None],
    ) -> dict[str, ActivationSource]:
        """For each split that epochs read, its feed, training images mixed; a cache is filled first."""
        device, trunk = self.accelerator.device, self._run_by(model)
        pixels: dict[str, ActivationSource] = {
            split: PixelSource(loaders[split], trunk, device, mixing if split == "train" else None)
            for split in CACHED_SPLITS
        }
        if self._packing is None:
            return pixels
        model.eval()
        layout = self._layout
        if self.config.dir is None:
            self._private = run.path / "boundary_cache"
        cache = BoundaryCache(self.config.dir or self._private, self._contents(), layout)  # type: ignore[arg-type]
        with counting("caching activations", self.accelerator.is_main_process) as progress:
            packed = {split: Packed(feed, self._packing) for split, feed in pixels.items()}
            counts = fill_cache(cache, packed, self.accelerator, self.agreement, stop_if_asked, progress)
        free = self.free_device_bytes()
        fitting = that_fit(layout.split_bytes, self.config.device_share * free)
        for name in CACHED_SPLITS:
            labels = self.data.labels(name).tolist()
            source = cached_source(cache.split(name), labels, device, resident=name in fitting)
            if isinstance(source, ResidentFeed):
                self.on_device[name] = fitting[name]
            self._feeds[name] = Unpacked(source, self._packing)
        if self.accelerator.is_main_process:
            size = layout.bytes_of(layout.shards()) / 1e9
            damaged = f", {counts['damaged']} of them damaged before" if counts["damaged"] else ""
            console.print(
                f"boundary cache at {self._trunk['cut']}: {size:.3g} GB in {counts['shards']} shards, "
                f"{counts['computed']} computed now{damaged}{self._place_in_words(free, fitting)}"
            )
        self._filled = cache
        return self._feeds

    def plain_feed(self, split: str) -> ActivationSource | None:
        """The cached activations of the training images as they are; None where there are none."""
        return None if split != "train" or self.recipe.data.augment else self._feeds.get(split)

    def _place_in_words(self, free: int, fitting: Mapping[str, int]) -> str:
        """Where epochs read the rows, if there is a choice."""
        if not free:
            return ""
        size, room = sum(self.on_device.values()) / 1e9, self.config.device_share * free / 1e9
        kept = " and ".join(self.on_device)
        said = f"; {kept} on the device ({size:.3g} GB)" if kept else "; read one batch ahead"
        said += f": {room:.3g} of {free / 1e9:.3g} GB that are free there may be taken"
        refused = " and ".join(name for name in fitting if name not in self.on_device)
        return said + (f", but by then there was no room for {refused}" if refused else "")

    @contextmanager
    def lack_of_memory_explained(self) -> Iterator[None]:
        """Say of a device that is out of memory that rows lie in it, if some do.

        Raises:
            ToolkitError: it is.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            if not self.on_device:
                raise
            size = sum(self.on_device.values()) / 1e9
            what = f"the device is out of memory, of which cached rows take {size:.3g} GB"
            fix = f"set it below {self.config.device_share:g} (0 reads all rows from the disk), and go on with --resume"
            raise ToolkitError(what, where="training.boundary_cache.device_share", fix=fix) from error

    @property
    def cache_folder(self) -> Path | None:
        """Where the cache lies that the epochs read, named by its key; None where there is none."""
        return self._filled.folder if self._filled else None

    def remove_private_cache(self) -> None:
        """Remove a cache that was to live as long as the run."""
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)

    @property
    def _size(self) -> tuple[int, int]:
        size = self.preprocess.output_size
        assert size is not None  # checked when the preprocessing was built
        return size

    def _run_by(self, model: nn.Module) -> Callable[[Any], Any] | None:
        """What runs the frozen groups of a model; None where no group is frozen."""
        if self.trunk is not None:
            return self.trunk
        return partial(model, stop=self.start) if self.start else None

    def _contents(self) -> dict[str, Any]:
        """All that the activations depend on beside their layout; its hash is the cache's key."""
        training, changes = self.recipe.training, Augment(self.recipe.data, self._size)
        contents = (
            self._trunk
            | self._texts
            | {
                "preprocess": self.preprocess.model_dump(mode="json"),
                "augment": changes.describe(),
                "augment_seed": training.seed if changes else None,
                "images": {split: self.data.order(split) for split in CACHED_SPLITS},
                "mixed_precision": training.mixed_precision,
                "compiled": training.compile,
                "device": self.accelerator.device.type,
                "batch": FILL_BATCH,
                "pixel_code": _pixel_code(),
                "versions": {module.__name__: module.__version__ for module in (np, PIL, torch, transformers)},
            }
        )
        contents |= fp32_arithmetic(self.accelerator.device)
        if self.trunk is not None:
            contents |= {"trunk": self.trunk.describe(), "onnxruntime": onnxruntime.__version__}
        return contents

    @torch.no_grad()
    def _packing_of(self, classifier: Classifier, texts: TextInputs | None) -> Packing:
        """How one image's activations become a row, asked of the trunk itself."""
        run = self._run_by(classifier)
        assert run is not None  # a cache was asked for, and something is frozen
        return Packing.of(run(made_up_inputs(1, self._size, texts)))


def _pixel_code() -> str:
    """SHA-256 over the code that turns a file into ``pixel_values``: where it changes, activations may."""
    digest = hashlib.sha256()
    for module in (decode, read_samples, range_statements, samples, value_range, preprocess, augment):
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def trunk_contents(classifier: Classifier) -> dict[str, Any]:
    """What the trunk's activations depend on: its weights, its configuration and where it ends."""
    digest = hashlib.sha256()
    groups, encoder = classifier.groups, classifier.encoder
    config, text = encoder.model.config.to_dict(), text_tower_of(encoder)
    if text is not None:
        config |= {"text": text.model.config.to_dict()}
    for group in groups[: classifier.boundary]:
        for module in group.modules:
            for name, tensor in module.state_dict().items():
                digest.update(f"{group.name} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return {
        "trunk_sha256": digest.hexdigest(),
        "cut": groups[classifier.boundary].name,
        "family": classifier.encoder.family.name,
        "encoder": {name: value for name, value in config.items() if name != "_name_or_path"},
    }
