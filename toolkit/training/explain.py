"""What a recipe would do, without doing it: groups, steps, and memory and time from a few steps on made-up images."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psutil
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from toolkit.data.augment import Augment
from toolkit.data.dataset import ImageDataset, default_workers
from toolkit.data.formats import list_data
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import SPLITS, ListedImage, Listing, NoImage, check_listing
from toolkit.data.splits import Entry, divide
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.models.text_inputs import TextInputs, made_up_inputs, text_inputs
from toolkit.recipe.data import DataConfig
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import BoundaryCacheConfig
from toolkit.runtime.machine import usable_cores
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.boundary import CACHED_SPLITS
from toolkit.training.boundary_cache import Layout
from toolkit.training.cache_choice import reason_against
from toolkit.training.device_memory import device_memory, free_device_bytes, that_fit
from toolkit.training.optimizer import build_optimizer
from toolkit.training.packing import Packing
from toolkit.training.setup import check_task
from toolkit.training.trunk import check_trunk_precision

PROBES = 3
"""Times that each part of a step is measured, after one that isn't; the median counts."""
PLACEHOLDERS = ["first", "second"]
"""Classes of a head whose data isn't there yet."""


@dataclass(frozen=True)
class Costs:
    """Seconds a batch of the recipe's size, bytes that the backward pass keeps of one, and what a cache keeps."""

    reading: float | None
    """Decoding, augmenting and preprocessing; None without images."""
    trunk: float
    """The frozen groups below the first that learns."""
    learning: float
    """Forward, backward and optimiser of the groups that learn."""
    forward: float
    """Forward alone of these."""
    activations: int
    row: tuple[int, ...]
    """Shape of an image's activations where the frozen groups end."""


def explain(recipe: Recipe, *, processes: int = 1, probe: bool = True) -> dict[str, Any]:
    """Work out what a run of the recipe would be.

    Args:
        recipe: the recipe.
        processes: processes that shall share each step.
        probe: measure a few steps at the recipe's batch size on this machine; nothing is kept of them.

    Returns:
        ``data`` (``images`` a split and ``classes``, or ``problem``), ``groups``, ``parameters``,
        ``trainable_parameters``, ``encoder_notes``, ``trunk_precision``, ``boundary_cache`` (``enabled``, and what
        speaks against it where the recipe says ``auto``; a run also looks whether there is room),
        ``effective_batch``, ``steps_per_epoch`` and ``steps`` (None without data), ``memory_bytes`` by part
        (``cached_rows``: what the boundary cache would take of the GPU's memory that is free now; ``process_now`` and
        ``peak_device_bytes`` are no parts, but what this process held in memory and its tensors on a GPU), and
        ``seconds`` by part (None without a probe or without data). Memory and time are those of a trunk in fp32.

    Raises:
        ToolkitError: an encoder or groups that don't exist, a precision of a trunk that there is not, or data
            that is there but damaged.
    """
    config = recipe.training
    check_task(recipe)
    listing, problem = _listing(recipe.data)
    classifier, processor = build_classifier(recipe.model, listing.classes if listing else PLACEHOLDERS, config.seed)
    check_trunk_precision(config.trunk_precision, classifier)
    classifier.task.check_metric(config.select_by)
    if listing:
        classifier.task.order_of(listing.classes, given=recipe.data.classes is not None)
    rates = {group["name"]: group["lr"] for group in build_optimizer(classifier.groups, config).param_groups}
    images = _images(listing, recipe.data) if listing else None
    plan = BatchSchedule(images["train"] if images else 1, config.batch_size, config.gradient_accumulation * processes)
    costs = _probe(classifier, processor, recipe, listing) if probe else None
    asked = config.boundary_cache.enabled
    against = reason_against(recipe, frozen=classifier.boundary > 0) if asked == "auto" else None
    cached = against is None if asked == "auto" else bool(asked)
    return {
        "data": {
            "images": images,
            "classes": len(listing.classes) if listing else None,
            "problem": problem,
        },
        "groups": [
            {
                "name": group.name,
                "parameters": sum(parameter.numel() for parameter in group.parameters()),
                "learning_rate": rates.get(group.name),
            }
            for group in classifier.groups
        ],
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "trainable_parameters": sum(p.numel() for p in classifier.parameters() if p.requires_grad),
        "encoder_notes": list(classifier.encoder.notes),
        "trunk_precision": config.trunk_precision,
        "processes": processes,
        "effective_batch": plan.effective_batch,
        "steps_per_epoch": plan.steps_per_epoch if images else None,
        "steps": plan.steps_per_epoch * config.epochs if images else None,
        "memory_bytes": _memory(classifier, recipe, costs) | _cached_rows(recipe, images, costs, cached=cached),
        "boundary_cache": {"enabled": cached, "reason_against": against},
        "seconds": _seconds(recipe, images, costs, processes, cached=cached) if images and costs else None,
        "device": _device().type,
    }


def _listing(config: DataConfig) -> tuple[Listing | None, str | None]:
    """What the data holds; where it isn't there yet, None and the reason."""
    try:
        listing = list_data(config)
        check_listing(listing)
    except ToolkitError as error:
        if config.path.exists():
            raise
        return None, f"{error.what}: {error.where} ({error.fix})"
    return listing, None


def _images(listing: Listing, config: DataConfig) -> dict[str, int]:
    """Images a split, as a run would make the splits if every image can be read.

    Contents are hashed where they decide which split an image is in.
    """
    label_of = listing.target.reader(listing.classes)
    if set(SPLITS) <= set(listing.splits) or any(item.group for item in listing.items):
        hashes: list[str | None] = [str(index) for index in range(len(listing.items))]
    else:
        with ThreadPoolExecutor(usable_cores()) as pool:
            hashes = list(pool.map(_content_hash, listing.items))
    found: dict[str, list[Entry]] = {split: [] for split in listing.splits}
    for index, (item, sha256) in enumerate(zip(listing.items, hashes, strict=True)):
        if sha256 is not None:
            found[item.split].append(Entry(index, label_of(item.label), sha256, item.group, item.text))
    return {split: len(entries) for split, entries in divide(found, config, listing.classes).splits.items()}


def _content_hash(item: ListedImage) -> str | None:
    """SHA-256 of an image's file, empty for a text without one; None where it can't be read."""
    if isinstance(item.content, NoImage):
        return ""
    try:
        return item.sha256 or hashlib.sha256(item.content.read()).hexdigest()
    except OSError:
        return None


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _probe(classifier: Classifier, processor: Any, recipe: Recipe, listing: Listing | None) -> Costs:
    """Run a few steps as training runs them, on random pixels, and read a batch of real images."""
    config, device = recipe.training, _device()
    preprocess = preprocess_from(processor)
    size = preprocess.output_size
    assert size is not None  # checked when the preprocessing was built
    classifier.to(device).train()
    classifier.encoder.recompute_layers = config.gradient_checkpointing
    start = classifier.boundary
    optimizer = build_optimizer(classifier.groups, config)
    texts = text_inputs(classifier.encoder)
    noise = made_up_inputs(config.batch_size, size, texts, torch.Generator().manual_seed(0))
    inputs = send_to_device(noise, device)
    labels = classifier.task.example_labels(config.batch_size, len(classifier.labels), device)
    criterion = classifier.task.loss(config, classifier.labels, labels.cpu(), device)
    kept = _Kept(classifier)

    def precision() -> AbstractContextManager[Any]:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)
        return torch.autocast(device.type, half) if half else nullcontext()

    def trunk() -> Any:
        with torch.no_grad(), precision():
            return classifier(inputs, stop=start) if start else inputs

    def forward() -> None:
        with torch.no_grad(), precision():
            classifier(hidden, start=start)

    def learning() -> None:
        with precision(), kept.counting():
            loss = criterion(classifier(hidden, start=start).float(), labels)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    hidden = trunk()
    reading = _reading(recipe, preprocess, size, listing, texts) if listing else None
    times = {work.__name__: _median(work, device) for work in (trunk, forward, learning)}
    return Costs(
        reading,
        times["trunk"] if start else 0.0,
        times["learning"],
        times["forward"],
        kept.bytes,
        Packing.of(hidden).row,
    )


def _reading(
    recipe: Recipe, preprocess: Any, size: tuple[int, int], listing: Listing, texts: TextInputs | None
) -> float | None:
    """Seconds to read a batch from spread-out images; None if one of them can't be read."""
    step = max(1, len(listing.items) // recipe.training.batch_size)
    items = list(islice(listing.items, 0, None, step))[: recipe.training.batch_size]
    known = recipe.data.value_range
    examples = [LabelledImage(item.path, 0, item.content, value_range=known, text=item.text) for item in items]
    dataset = ImageDataset(examples, preprocess, Augment(recipe.data, size), texts=texts)
    keys = [(1, index) for index in range(len(examples))]
    try:
        seconds = _median(lambda: dataset.__getitems__(keys), torch.device("cpu"))
    except ToolkitError:
        return None
    return seconds * recipe.training.batch_size / len(examples)


def _median(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(PROBES + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


class _Kept:
    """Counts the bytes that autograd keeps for the backward pass, each storage once, without the weights."""

    def __init__(self, classifier: Classifier) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in classifier.parameters()}
        self._seen: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._seen.values())

    def counting(self) -> AbstractContextManager[Any]:
        self._seen = {}
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor


def _memory(classifier: Classifier, recipe: Recipe, costs: Costs | None) -> dict[str, int]:
    """Bytes by part, in one process that shards nothing: counted, but for activations and what the process holds."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in classifier.parameters())
    learns = sum(p.numel() * p.element_size() for p in classifier.parameters() if p.requires_grad)
    parts = {"weights": weights, "gradients": learns, "optimizer_moments": 2 * learns}
    if recipe.training.ema_decay:
        parts["running_average"] = learns
    if recipe.training.wise_ft:
        parts["original_weights"] = learns
    if costs:
        parts["activations"] = costs.activations
        parts["process_now"] = psutil.Process().memory_info().rss
        parts |= device_memory(_device())
    return parts


def _cached_rows(recipe: Recipe, images: dict[str, int] | None, costs: Costs | None, *, cached: bool) -> dict[str, int]:
    """Bytes that rows of the boundary cache would take of a GPU's memory, by what is free of it now."""
    if images is None or costs is None or not cached:
        return {}
    kept = rows_on_device(recipe.training.boundary_cache, images, costs.row, free_device_bytes(_device()))
    return {"cached_rows": sum(kept.values())} if kept else {}


def rows_on_device(
    cache: BoundaryCacheConfig, images: Mapping[str, int], row: tuple[int, ...], free: int
) -> dict[str, int]:
    """Bytes of the cached splits that a run would keep in a GPU's memory.

    Args:
        cache: of the recipe.
        images: a split.
        row: shape of an image's activations at the boundary.
        free: bytes of the GPU's memory that are free.
    """
    layout = Layout.of(cache, {split: images[split] for split in CACHED_SPLITS}, row)
    return that_fit(layout.split_bytes, cache.device_share * free)


def _seconds(recipe: Recipe, images: dict[str, int], costs: Costs, processes: int, *, cached: bool) -> dict[str, float]:
    """Seconds by part: images times what one cost in the probe."""
    config, device = recipe.training, _device()
    reading = costs.reading or 0.0
    if device.type != "cpu":
        workers = config.loader_workers if config.loader_workers is not None else default_workers(on_gpu=True)
        reading = reading * usable_cores() / max(1, workers)  # in processes of their own, beside the device

    def per_image(compute: float) -> float:
        busy = reading + compute if device.type == "cpu" else max(reading, compute)
        shared = processes if device.type != "cpu" else 1  # processes on CPUs share the same cores
        return busy / config.batch_size / shared

    held_out = images["validation"] + images["test"]
    cache = config.boundary_cache
    filling = 0.0
    if cached and costs.trunk:
        views = cache.views if recipe.data.augment else 1
        filling = (views * images["train"] + images["validation"]) * per_image(costs.trunk)
        epoch = images["train"] * costs.learning + images["validation"] * costs.forward
        training = config.epochs * epoch / config.batch_size
    else:
        train = images["train"] * per_image(costs.trunk + costs.learning)
        training = config.epochs * (train + images["validation"] * per_image(costs.trunk + costs.forward))
    evaluation = (images["train"] + held_out) * per_image(costs.trunk + costs.forward)
    if config.wise_ft:
        evaluation += 11 * images["validation"] * per_image(costs.trunk + costs.forward)
    parts = {"filling_the_cache": filling, "training": training, "evaluation": evaluation}
    return parts | {"total": sum(parts.values())}
