"""How a command ends: exit 0 = good, 1 = a check failed, 2 = the input was wrong, said in one line."""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

import typer

from toolkit.errors import CheckFailed, Stopped, ToolkitError

# typer carries its own click since 0.20, so its classes are found through what it exports
ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
TRAIN_PACKAGES = {
    *("accelerate", "matplotlib", "onnx", "onnxscript", "psutil", "safetensors", "scipy", "sklearn"),
    *("tensorboard", "torch", "torchmetrics", "transformers"),
}
"""Modules that the extra ``train`` brings."""


def run(app: typer.Typer) -> NoReturn:
    """Run a typer application; mistakes of the user end in one line on stderr, anything else in a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False) or 0
    except ToolkitError as error:
        content = {"what": error.what, "where": error.where, "fix": error.fix}
        code = _fail(2, error.as_line(), content, everywhere=error.everywhere)
    except CheckFailed as error:
        code = _fail(1, str(error))
    except Stopped as stop:
        if _rank() == 0:
            sys.stderr.write(f"{stop}\n")
        code = 128 + stop.signal_number
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare command: its help is printed already
            sys.exit(0)
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
    sys.exit(code)


def _fail(code: int, line: str, content: dict[str, str] | None = None, *, everywhere: bool = False) -> int:
    """Say what is wrong; with ``--json`` also as an object where nothing else was printed.

    What all processes of a launch say is said once, by the first of them.
    """
    rank = _rank()
    if rank == 0 or not everywhere:
        process = f" (process {rank})" if rank else ""
        sys.stderr.write(f"error{process}: {line}\n")
    if rank == 0 and "--json" in sys.argv and content:
        sys.stdout.write(json.dumps({"error": content}, indent=2, ensure_ascii=False) + "\n")
    return code


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
