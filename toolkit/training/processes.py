"""What concerns several processes: how many really run, and work that one does for all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from toolkit.errors import ToolkitError

Result = TypeVar("Result")
PATIENCE = timedelta(hours=6)
"""How long processes wait for one that works for all of them: reading a large data set takes its time."""


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Do ``work`` in the main process and hand its result, or its error, to all."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except ToolkitError as error:
            outcome[1] = (error.what, error.where, error.fix)
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        what, where, fix = outcome[1]
        raise ToolkitError(what, where=where, fix=fix, everywhere=True)
    return outcome[0]  # type: ignore[return-value]


def on_each_machine(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Do ``work`` in the first process of each machine; where it fails in one, all raise the first error."""
    failure = None
    if accelerator.is_local_main_process:
        try:
            work()
        except ToolkitError as error:
            failure = (error.what, error.where, error.fix)
    for found in of_all_processes(accelerator, failure):
        if found is not None:
            raise ToolkitError(found[0], where=found[1], fix=found[2], everywhere=True)


def of_all_processes(accelerator: Accelerator, mine: Result) -> list[Result]:
    """What each process has, in the order of the processes."""
    return list(gather_object([mine])) if accelerator.num_processes > 1 else [mine]


class AllRanks:
    """Lets all processes know what any of them saw: one small reduction on the CPU, which no GPU waits for."""

    def __init__(self, processes: int) -> None:
        several = processes > 1
        self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if several else None

    def any(self, *facts: bool) -> list[bool]:
        """For each fact, whether it holds in some process."""
        if self._group is None:
            return list(facts)
        seen = torch.tensor(facts, dtype=torch.int32)
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX, self._group)
        return [bool(fact) for fact in seen]

    def gathered(self, mine: Result) -> list[Result]:
        """What each process has, in the order of the processes."""
        if self._group is None:
            return [mine]
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, mine, self._group)
        return everyone


def raise_together(agreement: AllRanks, error: ToolkitError | None) -> None:
    """Raise, in every process, the first error that any of them has; else do nothing."""
    if agreement.any(error is not None)[0]:
        errors = agreement.gathered(None if error is None else (error.what, error.where, error.fix))
        what, where, fix = next(each for each in errors if each is not None)
        raise ToolkitError(what, where=where, fix=fix, everywhere=True) from error
