"""What concerns several processes: how many really run, and work that one does for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from toolkit.errors import ToolkitError

Result = TypeVar("Result")


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
        raise ToolkitError(what, where=where, fix=fix)
    return outcome[0]  # type: ignore[return-value]


def processes_asked_for(command: list[str] | None = None) -> int | None:
    """Processes that the ``accelerate launch`` above this process was told to start.

    Args:
        command: the launcher's command line; the parent process's unless given.

    Returns:
        The number from ``--num_processes``, else from the ``--config_file``, else None.
    """
    if command is None:
        parent = psutil.Process().parent()
        command = parent.cmdline() if parent else []
    if not any("accelerate" in Path(part).name for part in command):
        return None
    number = _option(command, "num_processes")
    if number is not None and number.isdigit():
        return int(number)
    config = _option(command, "config_file")
    if config is None or not Path(config).is_file():
        return None
    content = yaml.safe_load(Path(config).read_text())
    return content.get("num_processes") if isinstance(content, dict) else None


def _option(command: list[str], name: str) -> str | None:
    flags = (f"--{name}", f"--{name.replace('_', '-')}")
    for position, part in enumerate(command):
        flag, separator, value = part.partition("=")
        if flag in flags:
            if separator:
                return value
            return command[position + 1] if position + 1 < len(command) else None
    return None
