"""Where figures go beside ``metrics.jsonl``: TensorBoard, CSV, Weights & Biases, MLflow, by Accelerate's trackers."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process

from toolkit.config import Recipe, TrackingConfig
from toolkit.errors import ToolkitError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What a tracker needs, as pip calls it."""


class CsvTracker(GeneralTracker):
    """One line a figure: ``step,name,value``, so that a new figure never changes the columns."""

    name = "csv"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Begin the file; the recipe stands in ``recipe.yaml``."""
        if not self.path.exists():
            self.path.write_text("step,name,value\n")

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Append a line for each figure."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, value] for name, value in values.items())


def trackers_of(config: TrackingConfig, out: Path) -> list[str | GeneralTracker]:
    """What :class:`accelerate.Accelerator` is given as ``log_with``.

    Raises:
        ToolkitError: a tracker that isn't installed.
    """
    for name in config.trackers:
        if name in PACKAGES and importlib.util.find_spec(name) is None:
            fix = f"pip install {PACKAGES[name]}, or leave it out"
            raise ToolkitError(f"{name} is not installed", where="tracking.trackers", fix=fix)
    return [CsvTracker(out / "metrics.csv") if name == "csv" else name for name in config.trackers]


def start_trackers(accelerator: Accelerator, recipe: Recipe, out: Path) -> None:
    """Open the trackers under the recipe's project, with the recipe's keys as the run's configuration."""
    project = recipe.tracking.project
    flat = _flat(recipe.model_dump(mode="json"))
    options: dict[str, dict[str, Any]] = {
        "wandb": {"name": out.name, "dir": str(out)},
        "mlflow": {"run_name": out.name},
    }
    folder = "tensorboard" if recipe.tracking.trackers == ["tensorboard"] else project
    accelerator.init_trackers(
        folder, config=flat, init_kwargs={n: options[n] for n in recipe.tracking.trackers if n in options}
    )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested keys joined by dots; what no tracker takes as it is, as text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
