"""Activations between the frozen trunk and what learns, computed once an image and view, and kept on disk.

A step with N layers of which the last K learn costs N + 2K layer passes without the cache and
3K with it. Everything that an activation depends on goes into the key, so that a stale cache
has another name; every shard carries the key and a checksum, so that a damaged one is found
when the cache is opened and computed again.
"""

# B batch

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, sync, write_json
from toolkit.models.tensor_files import save_tensors
from toolkit.recipe.training import BoundaryCacheConfig
from toolkit.strict_json import read_json

SHARD_BYTES = 32 * 2**20
FILL_BATCH = 32
"""Images a batch while filling, whatever the batch size of the training, so that runs can share a cache."""
OPEN_SHARDS = 256
"""Shards that a process keeps mapped; each holds a file handle."""
DTYPES: dict[str, tuple[torch.dtype, np.dtype[Any]]] = {
    "fp32": (torch.float32, np.dtype(np.float32)),
    "fp16": (torch.float16, np.dtype(np.float16)),
    "bf16": (torch.bfloat16, np.dtype(np.uint16)),
}
"""For each stored dtype: torch's, and numpy's of the same width, which has no bfloat16."""

NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""safetensors' names of the same."""
ABOUT = "about"
"""Key of the shard's own description in the file's metadata."""


@dataclass(frozen=True)
class Shard:
    """A range of one split's images in one view."""

    split: str
    view: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File name; the same range has the same name whoever writes it."""
        return f"{self.split}-view{self.view:03d}-{self.start:08d}.safetensors"


@dataclass(frozen=True)
class Layout:
    """What a cache holds: how many images and views of each split, and what a row looks like."""

    images: dict[str, int]
    views: dict[str, int]
    row: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, config: BoundaryCacheConfig, images: Mapping[str, int], row: tuple[int, ...]) -> Layout:
        """What a recipe's cache holds.

        Args:
            config: of the cache.
            images: of the splits that epochs read.
            row: shape of one image's activations.
        """
        views = {split: config.views if split == "train" else 1 for split in images}
        return cls(dict(images), views, row, config.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image in one view."""
        return math.prod(self.row) * DTYPES[self.dtype][1].itemsize

    @property
    def shard_images(self) -> int:
        """Images of a shard: whole fill batches of about ``SHARD_BYTES``."""
        return max(1, SHARD_BYTES // (self.row_bytes * FILL_BATCH)) * FILL_BATCH

    def shards(self) -> list[Shard]:
        """All shards, in order."""
        return [
            Shard(split, view, start, min(start + self.shard_images, images))
            for split, images in self.images.items()
            for view in range(self.views[split])
            for start in range(0, images, self.shard_images)
        ]

    def bytes_of(self, shards: Sequence[Shard]) -> int:
        """Bytes that shards take, headers aside."""
        return sum(shard.stop - shard.start for shard in shards) * self.row_bytes

    @property
    def split_bytes(self) -> dict[str, int]:
        """Bytes of all rows of each split in all views."""
        return {split: self.views[split] * images * self.row_bytes for split, images in self.images.items()}

    def check_budget(self, max_gb: float) -> None:
        """Refuse a cache that is larger than was allowed.

        Raises:
            ToolkitError: saying what it needs.
        """
        need = self.bytes_of(self.shards()) / 1e9
        if need > max_gb:
            views = {split: f" x {count} views" if count > 1 else "" for split, count in self.views.items()}
            counts = " + ".join(f"{n:,} {split} images{views[split]}" for split, n in self.images.items())
            what = f"the boundary cache needs {need:,.6g} GB ({counts}, {self.row_bytes / 1000:,.1f} kB each)"
            half = "" if self.dtype != "fp32" else ", training.boundary_cache.dtype=fp16"
            fix = f"set training.boundary_cache.max_gb={math.ceil(need)}{half}, or fewer views"
            raise ToolkitError(f"{what}, over max_gb = {max_gb:g}", where="training.boundary_cache", fix=fix)


class BoundaryCache:
    """The shards of one key below ``root``, in one folder a process that wrote them."""

    def __init__(self, root: Path, contents: dict[str, Any], layout: Layout) -> None:
        self.layout = layout
        self.contents = contents | {"row": list(layout.row), "dtype": layout.dtype, "views": layout.views}
        self.key = hashlib.sha256(json.dumps(self.contents, sort_keys=True).encode()).hexdigest()
        self.folder = root / self.key[:16]

    def check_space(self, missing: Sequence[Shard]) -> None:
        """Refuse to start what the disk has no room for.

        Raises:
            ToolkitError: saying what it needs and what is free.
        """
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        need = self.layout.bytes_of(missing)
        if need > free:
            what = f"the boundary cache needs {need / 1e9:.3g} GB more, but the disk has {free / 1e9:.3g} GB free"
            fix = "set training.boundary_cache.dir to a larger disk, dtype: fp16, or fewer views"
            raise ToolkitError(what, where=self.folder, fix=fix)

    def write_key(self) -> None:
        """Say beside the shards, for people, what they depend on."""
        with explain_os_errors(self.folder):
            write_json(self.folder / "key.json", {"key": self.key, **self.contents})

    def missing(self, shards: Sequence[Shard]) -> tuple[list[Shard], int]:
        """Those of ``shards`` that are not there whole, and how many of them were there but damaged; these go."""
        missing, damaged = [], 0
        for shard in shards:
            copies = self._copies(shard)
            broken = [path for path in copies if not self._is_whole(path, shard)]
            for path in broken:
                with explain_os_errors(path):
                    path.unlink()
            damaged += len(broken)
            if len(broken) == len(copies):
                missing.append(shard)
        return missing, damaged

    def write(self, shard: Shard, rows: Tensor, process: int) -> None:
        """Write a shard's rows [images, ...] atomically.

        Raises:
            ToolkitError: values that the dtype can't hold, or a full disk.
        """
        if not bool(torch.isfinite(rows).all()):
            what = f"activations at the boundary are not finite in {self.layout.dtype}"
            fix = "use training.boundary_cache.dtype=fp32 or bf16, or another encoder if it is fp32 already"
            raise ToolkitError(what, where=f"training.boundary_cache, {shard.name}", fix=fix)
        target = self.folder / f"rank-{process:05d}" / shard.name
        partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        # one entry, since safetensors writes several in any order
        about = {"key": self.key, "shard": shard.name, "sha256": _sha256(rows.view(torch.uint8).numpy())}
        with explain_os_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_tensors(partial, {"rows": rows}, {ABOUT: json.dumps(about)})
                sync(partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def split(self, name: str) -> CachedSplit:
        """One split, to read from.

        Raises:
            ToolkitError: a shard that another process wrote can't be seen from here.
        """
        paths = {}
        for shard in self.layout.shards():
            if shard.split == name:
                copies = self._copies(shard)
                if not copies:
                    fix = "set training.boundary_cache.dir to a folder that all machines share"
                    raise ToolkitError(f"{shard.name} is not here", where=self.folder, fix=fix)
                paths[shard.view, shard.start] = copies[0]
        return CachedSplit(self.layout, name, paths)

    def _copies(self, shard: Shard) -> list[Path]:
        return sorted(self.folder.glob(f"rank-*/{shard.name}"))

    def _is_whole(self, path: Path, shard: Shard) -> bool:
        try:
            header, rows, _ = map_rows(path, DTYPES[self.layout.dtype][1])
            about = read_json(header["__metadata__"][ABOUT])
            known = header.keys() == {"__metadata__", "rows"} and header["rows"]["dtype"] == NAMES[self.layout.dtype]
            right = (about["key"], about["shard"]) == (self.key, shard.name)
            return (
                known
                and right
                and rows.shape == (shard.stop - shard.start, *self.layout.row)
                and about["sha256"] == _sha256(rows)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged header may say anything
            return False


class CachedSplit:
    """Reads rows of one split. What was read is dropped from this process's memory, not from the system's cache."""

    def __init__(self, layout: Layout, name: str, paths: dict[tuple[int, int], Path]) -> None:
        self.layout, self.images, self.views, self.paths = layout, layout.images[name], layout.views[name], paths
        self._map = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    def view_of(self, epoch: int) -> int:
        """The view that an epoch, from 1, sees."""
        return (epoch - 1) % self.views

    def all_rows(self, device: torch.device) -> Tensor:
        """Activations [views, images, ...] as stored, in a device's memory; the host holds a shard at a time."""
        torch_dtype = DTYPES[self.layout.dtype][0]
        rows = torch.empty((self.views, self.images, *self.layout.row), dtype=torch_dtype, device=device)
        for view, start in sorted(self.paths):
            shard, memory = self._map(view, start)
            rows[view, start : start + len(shard)] = torch.from_numpy(shard.copy()).view(torch_dtype)
            _drop(memory)
        return rows

    def rows(self, epoch: int, indices: Sequence[int]) -> Tensor:
        """Activations [B, ...] of images, in the view that ``epoch`` sees."""
        view, size = self.view_of(epoch), self.layout.shard_images
        torch_dtype, numpy_dtype = DTYPES[self.layout.dtype]
        gathered = np.empty((len(indices), *self.layout.row), numpy_dtype)
        touched = {}
        for position, index in enumerate(indices):
            rows, memory = self._map(view, index // size * size)
            gathered[position] = rows[index % size]
            touched[id(memory)] = memory
        for memory in touched.values():
            _drop(memory)
        return torch.from_numpy(gathered).view(torch_dtype)

    def _open(self, view: int, start: int) -> tuple[npt.NDArray[Any], mmap.mmap]:
        _, rows, memory = map_rows(self.paths[view, start], DTYPES[self.layout.dtype][1])
        return rows, memory


def map_rows(path: Path, dtype: np.dtype[Any]) -> tuple[dict[str, Any], npt.NDArray[Any], mmap.mmap]:
    """A safetensors file's header and its tensor ``rows``, mapped read-only, with the mapping itself.

    safetensors maps files too, but keeps what was touched resident; the mapping is needed to let go of it.

    Raises:
        OSError: not there.
        ValueError: cut off, or no safetensors file.
        KeyError: without the tensor.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError("the header is cut off")
        header = read_json(file.read(length))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    begin, end = header["rows"]["data_offsets"]
    shape = header["rows"]["shape"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("the tensor's size doesn't fit its shape")
    data = np.frombuffer(memory, dtype, math.prod(shape), 8 + length + begin)
    return header, data.reshape(shape), memory


def _drop(memory: mmap.mmap) -> None:
    """Let go of a mapping's pages, which would count as this process's memory."""
    if sys.platform != "win32":
        memory.madvise(mmap.MADV_DONTNEED)


def _sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(array.data.cast("B")).hexdigest()
