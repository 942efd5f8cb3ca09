"""Processes that stop on their way through some functions and go on when they are told; used by scripts of tests.

So two operations meet in one order alone, whatever else the machine does, and the code under test is as it is.
"""

from __future__ import annotations

import atexit
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

Place = tuple[Callable[..., Any], str]
"""A function, and what happens in it: ``call``, or ``exception`` where one is on its way through it."""


class Stopping:
    """A child that operates, and stops once at each of some places, in their order.

    Args:
        operate: what it does; an error is printed, and is exit code 1.
        places: where it stops.
    """

    def __init__(self, operate: Callable[[], object], *places: Place) -> None:
        self.pid, self._ended = os.fork(), False
        if not self.pid:
            sys.settrace(_stopper([(inspect.unwrap(function).__code__, event) for function, event in places]))
            try:
                operate()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        atexit.register(self._kill)

    def stops(self) -> bool:
        """Wait until it stands still; whether it does, since it may also have ended."""
        return os.WIFSTOPPED(self._waited(os.WUNTRACED))

    def goes_on(self) -> None:
        """Let it go on, and don't wait for it."""
        os.kill(self.pid, signal.SIGCONT)

    def ends_well(self) -> bool:
        """Wait for its end; whether it met no error."""
        return self._waited() == 0

    def _waited(self, options: int = 0) -> int:
        status = os.waitpid(self.pid, options)[1]
        self._ended = not os.WIFSTOPPED(status)
        return status

    def _kill(self) -> None:
        if not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _stopper(places: list[tuple[Any, str]]) -> Callable[[FrameType, str, Any], Any]:
    codes = {code for code, _ in places}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code not in codes:
            return None
        if places and (frame.f_code, event) == places[0]:
            places.pop(0)
            os.kill(os.getpid(), signal.SIGSTOP)
        return trace

    return trace
