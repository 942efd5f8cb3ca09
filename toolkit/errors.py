"""The errors that a user can mend."""

from __future__ import annotations

from typing import Any

from toolkit.text import for_terminal


class ToolkitError(Exception):
    """A mistake the user can mend: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with 2.

    Args:
        what: what is wrong.
        where: the file, key or place.
        fix: what to do.
        everywhere: whether every process of a launch raises it, so that one of them is to print it.
    """

    def __init__(self, what: str, *, where: object, fix: str, everywhere: bool = False) -> None:
        super().__init__(f"{what}\n  at: {where}\n  fix: {fix}")
        self.what, self.where, self.fix, self.everywhere = what, str(where), fix, everywhere

    def __reduce__(self) -> tuple[Any, ...]:
        """Pass whole from a worker process to its parent, which calls no constructor of a subclass."""
        return _again, (type(self), self.args, self.__dict__)

    def as_line(self) -> str:
        """What, where and what to do, in one line."""
        what, fix = (" ".join(text.split()) for text in (self.what, self.fix))
        return for_terminal(f"{what} (at {self.where}); {fix}")


def _again(kind: type[ToolkitError], arguments: tuple[Any, ...], state: dict[str, Any]) -> ToolkitError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class CheckFailed(Exception):  # noqa: N818 - a verdict, not an error of the program
    """A check ran to its end and said no (parity, verification). The command line exits with 1."""


class Stopped(Exception):  # noqa: N818 - a wish that was met
    """The user or the system asked the process to stop, and it did in good order.

    The command line exits with 128 + the signal's number, as shells count it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
