"""``training.boundary_cache.enabled: auto``: the cache is on where the run stays the same, else a line says why not."""

# B batch

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolkit.models.text_inputs import TextInputs, made_up_inputs
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import BoundaryCacheConfig
from toolkit.training.boundary_cache import DTYPES, FILL_BATCH
from toolkit.training.packing import Packing

Trunk = Callable[[Any], Any]


@dataclass(frozen=True)
class CacheChoice:
    """Whether the cache is on, and a sentence that says why."""

    enabled: bool
    why: str

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with the choice in place of ``auto``."""
        cache = recipe.training.boundary_cache.model_copy(update={"enabled": self.enabled})
        return recipe.model_copy(update={"training": recipe.training.model_copy(update={"boundary_cache": cache})})


def reason_against(recipe: Recipe, *, frozen: bool) -> str | None:
    """Why a cache would change a run of the recipe, or gain it nothing; None where it wouldn't.

    Args:
        recipe: the recipe.
        frozen: whether a group stands before the first that learns.
    """
    training, augment = recipe.training, recipe.data.augment
    views = training.boundary_cache.views
    if not frozen:
        return "no group is frozen, so there is nothing to keep"
    if training.mix_at == "images" and (training.mixup or training.cutmix):
        return "each epoch mixes the images anew; training.mix_at=boundary mixes mixup's behind the cache"
    if augment and views == 1:
        several = "training.boundary_cache.views=4 keeps four versions of each image, and switches it on"
        return f"data.augment ({', '.join(augment)}) makes other images in every epoch; {several}"
    if training.epochs <= views:
        return f"no image would be read twice in {training.epochs} epochs with {views} versions of each"
    return None


def choose_cache(
    recipe: Recipe,
    *,
    frozen: bool,
    images: dict[str, int],
    trunk: Trunk | None,
    size: tuple[int, int],
    texts: TextInputs | None = None,
    folder: Path,
    exact: bool,
    recorded: bool | None = None,
) -> CacheChoice:
    """Decide on ``auto``.

    Args:
        recipe: whose ``training.boundary_cache.enabled`` is ``auto``.
        frozen: whether a group stands before the first that learns.
        images: of the splits that epochs read.
        trunk: the frozen groups, from what the encoder takes to activations; on the CPU.
        size: height and width of ``pixel_values``.
        texts: make what the encoder takes of texts, if it takes any.
        folder: where the cache would lie, unless the recipe names another.
        exact: whether the activations are computed and kept in float32 by the trunk as it is here, so that asking it
            tells what it will give.
        recorded: what an earlier start of the same run chose, which stands.
    """
    if recorded is not None:
        return CacheChoice(recorded, "as the run was started")
    cache, against = recipe.training.boundary_cache, reason_against(recipe, frozen=frozen)
    if against is None and trunk is not None:
        against = _reason_of_size(cache, images, trunk, made_up_inputs(1, size, texts), folder)
    if against is not None or trunk is None:
        return CacheChoice(False, f"since {against}")
    versions = f"with {cache.views} versions of each training image" if recipe.data.augment else "the same run"
    if not exact:
        return CacheChoice(True, f"{versions}, but for the rounding of activations")
    off = largest_rounding(trunk, size, batch_sizes_of(recipe, images), texts)
    return CacheChoice(
        True, f"{versions}, bit for bit" if off == 0 else f"{versions}, but for roundings up to {off:.0e}"
    )


def batch_sizes_of(recipe: Recipe, images: dict[str, int]) -> list[int]:
    """Every number of images that goes through the trunk at once, in epochs and while the cache is filled."""
    sizes = {1}
    for count in images.values():
        for most in (recipe.training.batch_size, FILL_BATCH):
            sizes |= {min(most, count), count % most}
    effective = recipe.training.batch_size * recipe.training.gradient_accumulation
    sizes |= {images["train"] % effective % recipe.training.batch_size}
    return sorted(sizes - {0})


@torch.no_grad()
def largest_rounding(
    trunk: Trunk, size: tuple[int, int], batch_sizes: list[int], texts: TextInputs | None = None
) -> float:
    """The largest difference between an image's activations in batches of these sizes, at both of their ends.

    Libraries choose how to sum by the shapes of their inputs, not by the values, so made-up pixels tell.
    """
    generator = torch.Generator().manual_seed(0)
    images = max(batch_sizes)
    inputs = made_up_inputs(images, size, texts, generator)
    packing = Packing.of(state := trunk(inputs))
    whole, off = packing.pack(state), 0.0
    for count in batch_sizes:
        for part in (slice(0, count), slice(images - count, None)):
            some = inputs[part] if texts is None else {name: values[part] for name, values in inputs.items()}
            off = max(off, float((packing.pack(trunk(some)) - whole[part]).abs().max()))
    return off


def _reason_of_size(
    cache: BoundaryCacheConfig, images: dict[str, int], trunk: Trunk, one: Any, folder: Path
) -> str | None:
    """Why the cache is too large; None if it is not."""
    with torch.no_grad():
        row = math.prod(Packing.of(trunk(one)).row) * DTYPES[cache.dtype][1].itemsize
    need = row * (images["train"] * cache.views + images["validation"])
    smaller = "; training.boundary_cache.dtype=fp16 halves it" if cache.dtype == "fp32" else ""
    if need > cache.max_gb * 1e9:
        most = f"training.boundary_cache.max_gb is {cache.max_gb:g}"
        return f"it would take {need / 1e9:.3g} GB, and {most}{smaller}"
    place = (cache.dir or folder).absolute()
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    if need > free:
        return f"it would take {need / 1e9:.3g} GB, and the disk has {free / 1e9:.3g} GB free{smaller}"
    return None
