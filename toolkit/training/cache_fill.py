"""Fill a boundary cache: look what is there, compute what is missing, all processes in step."""

from __future__ import annotations

import itertools
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from toolkit.data.listing import named
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, recover_interrupted_writes, write_bytes
from toolkit.lock import TakenError, lock
from toolkit.progress import Progress
from toolkit.training.activation_source import ActivationSource
from toolkit.training.batch_schedule import MicroBatch
from toolkit.training.boundary_cache import DTYPES, FILL_BATCH, BoundaryCache, Shard
from toolkit.training.processes import AllRanks, on_main_process, raise_together
from toolkit.training.progress import console
from toolkit.training.stopwatch import Stopwatch

LOOK_SECONDS = 0.5
"""Between two looks at whether another run still fills the cache."""
SIGN = ".sign-"
"""Begins the name of a file that shows which processes see the folder of the main one."""


def fill_cache(
    cache: BoundaryCache,
    feeds: Mapping[str, ActivationSource],
    accelerator: Accelerator,
    agreement: AllRanks,
    stop_if_asked: Callable[[], None],
    progress: Progress,
) -> dict[str, int]:
    """Compute the shards that are missing or damaged.

    Args:
        cache: what is to be filled.
        feeds: for each split, where its activations come from.
        accelerator: its processes share the work.
        agreement: how they tell each other of failures.
        stop_if_asked: called after each batch; may raise in all processes.
        progress: told how much is done.

    Returns:
        ``shards``, ``computed`` and ``damaged``, over all processes.
    """
    process, processes = accelerator.process_index, accelerator.num_processes
    with ExitStack() as held:
        _wait_for_turn(held, cache.folder, accelerator, stop_if_asked)
        shards = cache.layout.shards()
        on_main_process(accelerator, lambda: _clear_up(cache.folder))
        found = agreement.gathered(cache.missing(shards[process::processes]))
        missing = sorted((shard for theirs, _ in found for shard in theirs), key=lambda shard: shard.name)
        on_main_process(accelerator, lambda: _prepare(cache, missing))
        _refuse_unshared(cache.folder, accelerator, agreement)
        rounds = max(_batches(missing[rank::processes]) for rank in range(processes))
        _fill(cache, missing[process::processes], rounds, feeds, accelerator, agreement, stop_if_asked, progress)
    return {"shards": len(shards), "computed": len(missing), "damaged": sum(damaged for _, damaged in found)}


def _wait_for_turn(held: ExitStack, folder: Path, accelerator: Accelerator, stop_if_asked: Callable[[], None]) -> None:
    """Lock the cache in the main process; while another run fills it, all processes wait together."""
    what, said = "another run fills this cache", False

    def take() -> bool:
        try:
            held.enter_context(lock(folder, what=what))
        except TakenError:
            return False
        return True

    while not on_main_process(accelerator, take):
        if accelerator.is_main_process and not said:
            console.print(f"{what}: waiting for it")
            said = True
        stop_if_asked()
        time.sleep(LOOK_SECONDS)


def _clear_up(folder: Path) -> None:
    """Remove what killed runs left in a cache that is locked."""
    with explain_os_errors(folder):
        for place in (folder, *sorted(folder.glob("rank-*"))):
            recover_interrupted_writes(place)
        for sign in folder.glob(f"{SIGN}*"):
            sign.unlink()


def _prepare(cache: BoundaryCache, missing: list[Shard]) -> None:
    cache.check_space(missing)
    cache.write_key()


def _refuse_unshared(folder: Path, accelerator: Accelerator, agreement: AllRanks) -> None:
    """Raise, before anything is computed, if a process writes to another disk than the main one does."""
    sign = folder / f"{SIGN}{on_main_process(accelerator, lambda: uuid.uuid4().hex)}"

    def show() -> None:
        with explain_os_errors(sign):
            write_bytes(sign, b"")

    def hide() -> None:
        with explain_os_errors(sign):
            sign.unlink(missing_ok=True)

    on_main_process(accelerator, show)
    machines = agreement.gathered((socket.gethostname(), _sees(sign)))
    on_main_process(accelerator, hide)
    blind = [f"process {process} on {machine}" for process, (machine, sees) in enumerate(machines) if not sees]
    if blind:
        what = f"{named(blind)} can't see the folder of the boundary cache that process 0 on {machines[0][0]} writes"
        fix = (
            "set training.boundary_cache.dir to a folder that all machines share, or put the run folder on such a disk"
        )
        raise ToolkitError(what, where=folder, fix=fix, everywhere=True)


def _sees(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # of a folder that can't be searched
        return False


def _batches(shards: list[Shard]) -> int:
    return sum(len(range(shard.start, shard.stop, FILL_BATCH)) for shard in shards)


def _fill(
    cache: BoundaryCache,
    mine: list[Shard],
    rounds: int,
    feeds: Mapping[str, ActivationSource],
    accelerator: Accelerator,
    agreement: AllRanks,
    stop_if_asked: Callable[[], None],
    progress: Progress,
) -> None:
    """Run ``rounds`` batches in every process, since a sharded model's processes must call it together."""
    watch = Stopwatch(accelerator.device)
    done, total = 0, sum(shard.stop - shard.start for shard in mine)
    collector = _Collector(cache, accelerator.process_index)
    for shard, batch, hidden in _computed(mine, rounds, cache, feeds, watch):
        error = None
        if shard is not None:
            try:
                collector.add(shard, batch, hidden)
            except ToolkitError as failure:
                error = failure
            done += len(batch.indices)
            progress.done(done, total)
        raise_together(agreement, error)
        stop_if_asked()


def _computed(
    mine: list[Shard], rounds: int, cache: BoundaryCache, feeds: Mapping[str, ActivationSource], watch: Stopwatch
) -> Iterator[tuple[Shard | None, MicroBatch, Tensor]]:
    """The activations of this process's shards, and then of repeated images (shard None) until all rounds are done."""
    work = [(shard.split, shard, batch) for shard in mine for batch in _cut(shard)]
    anywhere = cache.layout.shards()[0]
    filler: list[tuple[str, Shard | None, MicroBatch]] = [
        (anywhere.split, None, MicroBatch(anywhere.view + 1, 0, [anywhere.start], first=0, step_images=1))
    ]
    work_and_filler = [*work, *filler * (rounds - len(work))]
    for split, part in itertools.groupby(work_and_filler, key=lambda item: item[0]):
        items = list(part)
        activations = feeds[split]((batch for _, _, batch in items), watch)
        for (_, shard, batch), (hidden, _) in zip(items, activations, strict=True):
            yield shard, batch, hidden


def _cut(shard: Shard) -> Iterator[MicroBatch]:
    """A shard's images as batches; view v is what epoch v + 1 sees."""
    for number, start in enumerate(range(shard.start, shard.stop, FILL_BATCH)):
        indices = list(range(start, min(start + FILL_BATCH, shard.stop)))
        yield MicroBatch(shard.view + 1, number, indices, first=start, step_images=len(indices))


class _Collector:
    """Gathers the batches of one shard after the other, and writes each when it is whole."""

    def __init__(self, cache: BoundaryCache, process: int) -> None:
        self.cache, self.process = cache, process
        self.rows: Tensor | None = None

    def add(self, shard: Shard, batch: MicroBatch, hidden: Tensor) -> None:
        dtype = DTYPES[self.cache.layout.dtype][0]
        if self.rows is None:
            self.rows = torch.empty(shard.stop - shard.start, *self.cache.layout.row, dtype=dtype)
        first = batch.indices[0] - shard.start
        self.rows[first : first + len(hidden)] = hidden.to("cpu", dtype)
        if batch.indices[-1] + 1 == shard.stop:
            rows, self.rows = self.rows, None
            self.cache.write(shard, rows, self.process)
