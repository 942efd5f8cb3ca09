"""The folder of a sweep: whose it is, and where a sweep that goes on stands."""

from __future__ import annotations

import shutil
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, recover_interrupted_writes, refuse_existing
from toolkit.lock import LOCK
from toolkit.runs.sweep_file import SWEEP, SweepFile, read_sweep, write_sweep

COMMON = ("recipe", "search", "sampler", "seed", "prune", "data_fingerprint")
"""What a sweep that is resumed must agree in with the one that is there."""


def refuse_if_taken(out: Path, *, replace: bool) -> None:
    """Raise if something else than a sweep is here, or a sweep that is not to be replaced or resumed."""
    with explain_os_errors(out):
        if out.is_dir() and all(child.name == LOCK for child in out.iterdir()):
            return  # what a start leaves that was killed at once
    refuse_existing(out, what="sweep", marker=SWEEP, replace=replace)


def begin(out: Path, settings: SweepFile, *, resume: bool) -> SweepFile:
    """The sweep as it stands in its folder, where nothing else is left.

    Args:
        out: locked, and this sweep's.
        settings: the sweep before its first trial.
        resume: whether one that is here goes on.

    Raises:
        ToolkitError: another one is to be resumed.
    """
    with explain_os_errors(out):
        recover_interrupted_writes(out)
        if resume and (out / SWEEP).exists():
            before = read_sweep(out)
            changed = [name for name in COMMON if getattr(before, name) != getattr(settings, name)]
            if changed:
                what = f"the sweep that is here has another {' and another '.join(changed)}".replace("_", " ")
                fix = "give what it was started with, or another --out"
                raise ToolkitError(what, where=out / SWEEP, fix=fix)
            settings = before.model_copy(update={"trials_wanted": settings.trials_wanted})
        else:
            clear(out)
        write_sweep(out, settings)
    return settings


def clear(out: Path) -> None:
    """Remove everything but the lock."""
    for child in out.iterdir():
        if child.name != LOCK:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
