"""Where metrics go beside ``metrics.jsonl``: TensorBoard, CSV, Weights & Biases, MLflow, by Accelerate's trackers."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from toolkit.errors import ToolkitError
from toolkit.files import write_bytes
from toolkit.recipe.flat_keys import flat_keys
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.tracking import TrackingConfig

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What a tracker needs, as pip calls it."""
HEADING = "step,name,value\n"


class CsvTracker(GeneralTracker):
    """One line a metric: ``step,name,value``, so that a new metric never changes the columns.

    Args:
        path: the file; what an interrupted run wrote after the checkpoint that is gone on from is cut off.
        step: optimiser steps that the run has made.
    """

    name = "csv"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path = path
        if PartialState().is_main_process:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.exists() else []
            kept = [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= step]
            write_bytes(path, "".join([HEADING, *kept]).encode())

    @property
    def tracker(self) -> Path:
        """The file that is written."""
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing: the recipe stands in ``recipe.yaml``."""

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Append a line for each metric."""
        if PartialState().is_main_process:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([step, name, values[name]] for name in sorted(values))


def check_trackers(config: TrackingConfig) -> None:
    """Refuse a tracker that isn't installed.

    Raises:
        ToolkitError: naming what to install.
    """
    for name in config.trackers:
        if name in PACKAGES and importlib.util.find_spec(name) is None:
            fix = f"pip install {PACKAGES[name]}, or leave it out"
            raise ToolkitError(f"{name} is not installed", where="tracking.trackers", fix=fix)


def start_trackers(accelerator: Accelerator, recipe: Recipe, out: Path, step: int) -> None:
    """Open the recipe's trackers for a run that made ``step`` steps; W&B and MLflow are told its keys too."""
    project = recipe.tracking.project
    make: dict[str, Callable[[], GeneralTracker]] = {
        "tensorboard": lambda: TensorBoardTracker("tensorboard", out),
        "csv": lambda: CsvTracker(out / "metrics.csv", step),
        "wandb": lambda: WandBTracker(project, name=out.name, dir=str(out)),
        "mlflow": lambda: MLflowTracker(project, run_name=out.name),
    }
    accelerator.log_with = [make[name]() for name in recipe.tracking.trackers]
    accelerator.init_trackers(project)
    for name in ("wandb", "mlflow"):
        if name in recipe.tracking.trackers and accelerator.is_main_process:
            accelerator.get_tracker(name).store_init_configuration(flat_keys(recipe.model_dump(mode="json")))
