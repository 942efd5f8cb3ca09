"""``sweep.json``: what a sweep searches and every trial that ended; a sweep that is resumed goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.recipe.search_space import Choices, Range, Value
from toolkit.regular_files import read_settings
from toolkit.strict_json import read_json, reason_in

SWEEP = "sweep.json"


class Trial(BaseModel):
    """A trial that ended."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    number: int
    """From 1, in the order in which they ran; its run folder is called by it."""
    params: dict[str, Value]
    """By the dotted name of their keys."""
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    """Of ``select_by`` on validation after the best epoch; None where no epoch gave one."""
    best_epoch: int | None
    epochs: int
    """That were trained."""
    values: tuple[float | None, ...]
    """After each of them."""
    seconds: float
    run: str | None
    """Its run folder below the sweep's; only complete trials keep one."""
    why: str | None
    """Why it was pruned, or failed."""


class Cache(BaseModel):
    """A boundary cache that trials of the sweep read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """First digits of the hash of all that its activations depend on."""
    trials: tuple[int, ...]
    """That read it, in order; the trunk ran for the first of them."""
    bytes: int


class SweepFile(BaseModel):
    """Content of ``sweep.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    recipe: dict[str, Any]
    """Resolved, before a trial's values are set."""
    search: dict[str, Annotated[Choices | Range, Field(discriminator="kind")]]
    sampler: Literal["tpe", "random", "grid"]
    seed: int
    prune: bool
    select_by: str
    smaller_is_better: bool
    data_fingerprint: str
    trials_wanted: int
    trials: tuple[Trial, ...] = ()
    boundary_caches: tuple[Cache, ...] = ()
    best: int | None = None
    """Number of the trial whose run lies in ``best/``."""

    @property
    def leader(self) -> Trial | None:
        """The complete trial with the best value, the first of equals."""
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]
        sign = -1.0 if self.smaller_is_better else 1.0
        return max(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)


def write_sweep(folder: Path, content: SweepFile) -> None:
    """Write the file into a folder, whole or not at all."""
    write_json(folder / SWEEP, content.model_dump(mode="json"))


def read_sweep(folder: Path) -> SweepFile:
    """What lies in a sweep's folder.

    Raises:
        ToolkitError: there is none, or a damaged one.
    """
    path = folder / SWEEP
    try:
        return SweepFile.model_validate(read_json(read_settings(path)))
    except (OSError, ValueError, ValidationError) as error:
        fix = "copy the sweep again, or start it anew with --force"
        raise ToolkitError(f"can't read the sweep: {reason_in(error)}", where=path, fix=fix) from error
