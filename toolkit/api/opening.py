"""What functions are given: a run or a bundle itself, or its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.runs.finished_run import Run
    from toolkit.runtime.bundle import Bundle


def opened_run(run: Run | Path | str, data: Path | str | None = None) -> Run:
    """A run that is given itself, or by its folder."""
    from toolkit.runs.finished_run import Run

    if isinstance(run, Run) and data is None:
        return run
    return Run(run.path if isinstance(run, Run) else Path(run), path_of(data))


def opened_bundle(bundle: Bundle | Path | str) -> Bundle:
    """A bundle that is given itself, or by its folder."""
    from toolkit.runtime.bundle import Bundle

    return bundle if isinstance(bundle, Bundle) else Bundle(Path(bundle))


def path_of(given: Path | str | None) -> Path | None:
    """A path, where one is given."""
    return None if given is None else Path(given)
