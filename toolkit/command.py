"""How a command ends: exit 0 = good, 1 = a check failed, 2 = the input was wrong, said in one line."""

from __future__ import annotations

import errno
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from toolkit.errors import CheckFailed, Stopped, ToolkitError
from toolkit.strict_json import print_json
from toolkit.text import for_terminal

# typer carries its own click since 0.20, so its classes are found through what it exports
ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
TRAIN_PACKAGES = {
    *("accelerate", "matplotlib", "onnx", "onnxscript", "psutil", "safetensors", "scipy", "sklearn"),
    *("tensorboard", "torch", "torchmetrics", "transformers"),
}
"""Modules that the extra ``train`` brings."""
ENVIRONMENT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose a place that has some"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its permissions, or choose another place"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR), "choose another path"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV), "check the disk, or copy the file elsewhere"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "close other programs, or raise the limit of open files (ulimit -n)"),
}
"""What the system says of disks and paths, whichever line of a program meets it; and what to do."""
CLOSED_PIPE = 141
"""128 + SIGPIPE, as shells count a reader that went away."""


def run(app: typer.Typer) -> NoReturn:
    """Run a typer application; mistakes of the user end in one line on stderr, anything else in a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _prepare_streams()
    try:
        code = _run(app)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        _let_go_of_streams()
        code = CLOSED_PIPE
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            raise
        where = error.filename or "the output"
        code = _fail_as(ToolkitError(error.strerror or str(error), where=where, fix=ENVIRONMENT[error.errno]))
    sys.exit(_flushed(code))


def _run(app: typer.Typer) -> int:
    try:
        code = app(standalone_mode=False) or 0
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer ends so for any pipe of the process
            raise end.__context__ from None
        code = CLOSED_PIPE  # rich, for its own
    except ToolkitError as error:
        code = _fail_as(error)
    except CheckFailed as error:
        code = _fail(1, str(error))
    except Stopped as stop:
        if _rank() == 0:
            sys.stderr.write(f"{for_terminal(str(stop))}\n")
        code = 128 + stop.signal_number
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare command: its help is printed already
            return 0
        context = getattr(error, "ctx", None)
        path = context.command_path if context else app.info.name
        what = error.format_message()  # type: ignore[attr-defined]
        code = _fail(2, f"{what.rstrip('.')} (at {path}); see {path} --help", {"what": what})
    except (typer.Abort, KeyboardInterrupt):
        code = _fail(130, "stopped")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_PACKAGES:
            raise
        fix = 'pip install "clip-toolkit[train]"'
        code = _fail(2, f"{error.name} is not installed (at {sys.prefix}); {fix}", {"what": str(error), "fix": fix})
    return code


def _fail_as(error: ToolkitError) -> int:
    content = {"what": error.what, "where": error.where, "fix": error.fix}
    return _fail(2, error.as_line(), content, everywhere=error.everywhere)


def _fail(code: int, line: str, content: dict[str, str] | None = None, *, everywhere: bool = False) -> int:
    """Say what is wrong; with ``--json`` also as an object where nothing else was printed.

    What all processes of a launch say is said once, by the first of them.
    """
    rank = _rank()
    if rank == 0 or not everywhere:
        process = f" (process {rank})" if rank else ""
        with suppress(OSError):  # nobody reads it, or its disk is full: the exit code still says it
            sys.stderr.write(f"error{process}: {for_terminal(line)}\n")
            sys.stderr.flush()
    if rank == 0 and "--json" in sys.argv and content:
        with suppress(OSError):
            print_json({"error": content}, sys.stdout)
    return code


def _prepare_streams() -> None:
    """Give the streams a form that any text can be written in, and a place where they were closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """The exit code, or another where the last words find no place; Python would print a traceback at its end."""
    fault = _fault_of(sys.__stdout__)
    if fault is not None or _fault_of(sys.__stderr__) is not None:
        _let_go_of_streams()
    if fault is None:
        return code
    return code or (CLOSED_PIPE if isinstance(fault, BrokenPipeError) else 2)


def _nobody_reads() -> bool:
    """Whether the reader of standard output or standard error went away."""
    if sys.platform == "win32":  # which has no poll, and writes to what was closed are all that ends so there
        return True
    pipes = select.poll()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            pipes.register(stream.fileno(), select.POLLERR)
    return any(found & select.POLLERR for _, found in pipes.poll(0))


def _fault_of(stream: TextIO | None) -> OSError | None:
    """What is wrong with a stream, whose last words are still waiting then."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        return error
    return None


def _let_go_of_streams() -> None:
    """Have what is still buffered go nowhere (see the note on SIGPIPE in Python's module signal)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and _fault_of(stream):
            os.dup2(nowhere, stream.fileno())


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
