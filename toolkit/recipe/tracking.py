"""The section ``tracking``: logs, trackers and plots."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from toolkit.recipe.section import Section


class TrackingConfig(Section):
    """What is written down on the way."""

    trackers: list[Literal["tensorboard", "csv", "wandb", "mlflow"]] = Field(
        ["tensorboard"], description="Where metrics go beside metrics.jsonl; wandb and mlflow are installed apart."
    )
    project: str = Field("clip-toolkit", min_length=1, description="Project (wandb) or experiment (mlflow) of the run.")
    log_every: int = Field(10, ge=1, description="Optimiser steps between two logged steps.")
    plots: bool = Field(True, description="Draw the finished run's plots, which takes seconds a run.")
