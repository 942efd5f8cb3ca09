"""What happens around the loop: the accelerator, and what is said before and after."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.markup import escape
from rich.table import Table

from toolkit.config import Recipe
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.runtime.machine import usable_cores
from toolkit.training.processes import processes_asked_for
from toolkit.training.progress import console


def build_accelerator(recipe: Recipe, out: Path) -> Accelerator:
    """The accelerator of a recipe: precision, accumulation, trackers, threads and seeds.

    ``accelerate launch`` sets one thread a process where it isn't told otherwise; on CPUs each
    process takes its share of the usable cores instead.

    Raises:
        ToolkitError: a precision that this device can't train in.
    """
    config = recipe.training
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*barrier.*device.*")
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        fix = "use training.mixed_precision=bf16 or no"
        raise ToolkitError("fp16 training needs a GPU", where="training.mixed_precision", fix=fix)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes started on CPUs don't find each other
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with="tensorboard" if recipe.tracking.tensorboard else None,
        project_dir=out,
    )
    if accelerator.device.type == "cpu":
        torch.set_num_threads(max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    set_seed(config.seed)
    return accelerator


def announce(accelerator: Accelerator, data: DataSource, recipe: Recipe, steps_per_epoch: int) -> None:
    """Say what runs: processes, device, data, batch arithmetic, and what is odd about them."""
    if not accelerator.is_main_process:
        return
    config, processes = recipe.training, accelerator.num_processes
    asked = processes_asked_for()
    if asked is not None and asked > processes:
        console.print(
            f"[bold yellow]warning[/]: {asked} processes were asked for, but {processes} runs. On CPUs, launch with "
            "--config_file recipes/accelerate/cpu_2_processes.yaml, or torchrun --nproc-per-node 2"
        )
    threads = f", {torch.get_num_threads()} threads each" if accelerator.device.type == "cpu" else ""
    plural = "es" if processes > 1 else ""
    console.print(f"{processes} process{plural} on {accelerator.device.type}{threads}, precision {_precision(recipe)}")
    counts = ", ".join(f"{len(examples):,} {split}" for split, examples in data.splits.items())
    console.print(f"{len(data.classes)} classes; images: {counts}")
    batch = config.batch_size * processes * config.gradient_accumulation
    console.print(
        f"effective batch {batch} = {config.batch_size} a process x {processes} x {config.gradient_accumulation} "
        f"accumulated; {steps_per_epoch} steps an epoch, {steps_per_epoch * config.epochs:,} in all",
    )
    if data.skipped:
        console.print(f"[bold yellow]warning[/]: {len(data.skipped)} unreadable images are left out")
    if data.duplicates:
        first = escape(" = ".join(data.duplicates[0]))
        console.print(
            f"[bold yellow]warning[/]: {len(data.duplicates)} images stand in more than one split, such as {first}; "
            "test figures will look better than they are"
        )


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """A table of the splits' figures, and the next command."""
    table = Table(title=f"best epoch {summary['best_epoch']} of {summary['epochs']}", title_justify="left")
    for heading in ("split", "images", "loss", "accuracy", "balanced", "macro F1", "AUROC"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("train", "validation", "test"):
        figures = summary[split]
        cells = [f"{figures[name]:.4f}" for name in ("loss", "accuracy", "balanced_accuracy", "macro_f1", "auroc")]
        table.add_row(split, f"{figures['images']:,}", *cells)
    console.print(table)
    console.print(f"run folder: {out}", markup=False)
    console.print(f"next: toolkit export --onnx {out} --out bundles/{out.name}", markup=False)


def _precision(recipe: Recipe) -> str:
    return {"no": "fp32"}.get(recipe.training.mixed_precision, recipe.training.mixed_precision)
