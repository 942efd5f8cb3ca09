"""Kill an operation at each line of the modules that it runs through; used by scripts of tests in their own process."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

TESTS = Path(__file__).parent


def environment() -> dict[str, str]:
    """For a process whose script imports this module."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def killed_at_each_line(
    targets: Callable[[int], Path],
    prepare: Callable[[Path], object],
    operate: Callable[[Path], object],
    modules: Collection[ModuleType],
    step: int = 1,
) -> None:
    """Operate on a fresh target in a child that is killed at line 0, ``step``, ``2 * step``, ... until one ends alive.

    Args:
        targets: gives the target for a line's number.
        prepare: makes a target.
        operate: what is killed.
        modules: whose executed lines count.
        step: lines from one kill to the next.
    """
    files = {module.__file__ for module in modules}
    for line in itertools.count(step=step):
        target = targets(line)
        prepare(target)
        child = os.fork()
        if not child:
            sys.settrace(_killer(line, files))
            operate(target)
            os._exit(0)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            return


def _killer(line: int, files: Collection[str | None]) -> Callable[[FrameType, str, Any], Any]:
    lines = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace
