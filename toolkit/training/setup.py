"""What happens around the loop: the accelerator, and what is said before and after."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, set_seed
from rich.markup import escape
from rich.table import Table

from toolkit.data.dataset import cores_of_this_process
from toolkit.data.source import DataSource
from toolkit.data.target import require_target
from toolkit.errors import ToolkitError
from toolkit.labels import similar_labels
from toolkit.models.fp32 import compute_fp32_fully
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.image_files import in_words
from toolkit.tasks.registry import task_named
from toolkit.training.batch_schedule import BatchSchedule
from toolkit.training.precision import check_precision, check_sharded, precision_handlers
from toolkit.training.processes import PATIENCE
from toolkit.training.progress import console
from toolkit.training.restarts import meet_again, restarts_would_fail
from toolkit.training.trackers import check_trackers

SHOWN = {
    **{"loss": "loss", "accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1"},
    "auroc": "AUROC",
}
SHOWN_OF_SETS = {
    **{"loss": "loss", "accuracy": "all right", "micro_f1": "micro F1", "macro_f1": "macro F1"},
    "average_precision": "mAP",
}
SHOWN_OF_NUMBERS = {"loss": "loss", "mae": "MAE", "rmse": "RMSE", "r2": "R²", "spearman": "Spearman"}
SHOWN_INSTEAD = {"micro_f1": SHOWN_OF_SETS, "rmse": SHOWN_OF_NUMBERS}
"""By a metric that says what was predicted."""
SHOWN_IF_ORDERED = {"mae": "MAE", "quadratic_kappa": "kappa", "spearman": "Spearman"}


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
    check_precision(config.mixed_precision)
    check_trackers(recipe.tracking)
    meet_again()
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes started on CPUs don't find each other
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[
            # nothing is recomputed or broadcast that frozen weights don't need; see Trainer for accumulation
            DistributedDataParallelKwargs(
                find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True
            ),
            InitProcessGroupKwargs(timeout=PATIENCE),
            *precision_handlers(config.mixed_precision),
        ],
        project_dir=out,
    )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        fix = "set fsdp_version: 2 in the launch configuration, as recipes/accelerate/fsdp2.yaml does"
        raise ToolkitError("FSDP 1 can't shard frozen and trainable weights together", where="fsdp_config", fix=fix)
    check_sharded(config.mixed_precision, sharded=accelerator.distributed_type == DistributedType.FSDP)
    compute_fp32_fully()  # after the accelerator, which lets matmuls of compiled models round
    if accelerator.device.type == "cpu":
        torch.set_num_threads(cores_of_this_process())
    set_seed(config.seed)
    return accelerator


def check_task(recipe: Recipe) -> Recipe:
    """The recipe, unless its task takes another kind of labels than the data has; before anything is read.

    Raises:
        ToolkitError: that, or no such task.
    """
    task = task_named(recipe.model.task, "model.task")
    require_target(task.target, recipe.data.columns, task.name)
    return recipe


def check_batch(accelerator: Accelerator, data: DataSource, recipe: Recipe) -> None:
    """Refuse a step of more images than there are.

    Raises:
        ToolkitError: with the arithmetic of the effective batch.
    """
    config, processes, images = recipe.training, accelerator.num_processes, len(data.splits["train"])
    batch = config.batch_size * processes * config.gradient_accumulation
    if batch > images:
        what = (
            f"a step of {batch} images (batch_size {config.batch_size} x {processes} processes x "
            f"{config.gradient_accumulation} accumulated) is more than the {images} training images"
        )
        fix = "lower training.batch_size or training.gradient_accumulation"
        raise ToolkitError(what, where="training.batch_size", fix=fix)


def announce(
    accelerator: Accelerator, data: DataSource, recipe: Recipe, plan: BatchSchedule, notes: Sequence[str] = ()
) -> None:
    """Say what runs: processes, device, data, batch arithmetic, what is odd, and ``notes`` on the encoder."""
    if not accelerator.is_main_process:
        return
    for note in notes:
        console.print(f"[bold yellow]note[/]: {escape(note)}")
    config, processes = recipe.training, accelerator.num_processes
    if restarts_would_fail():
        console.print(
            "[bold yellow]warning[/]: torchrun can't restart processes on several machines unless it is launched with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 (pytorch#135712)"
        )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type != DistributedType.FSDP:
        console.print("[bold yellow]warning[/]: FSDP was asked for, but it needs several GPUs; weights are not sharded")
    threads = (
        f", {torch.get_num_threads()} threads{' each' if processes > 1 else ''}"
        if accelerator.device.type == "cpu"
        else ""
    )
    plural = "es" if processes > 1 else ""
    trunk = f", frozen trunk in {config.trunk_precision} (ONNX Runtime)" if config.trunk_precision != "fp32" else ""
    console.print(
        f"{processes} process{plural} on {accelerator.device.type}{threads}, precision {_precision(recipe)}{trunk}"
    )
    counts = ", ".join(f"{len(examples):,} {split}" for split, examples in data.splits.items())
    what = f"number {data.classes[0]}" if data.target.kind == "number" else f"{len(data.classes)} classes"
    console.print(f"{what}; images: {counts}", markup=False)
    order = task_named(recipe.model.task, "model.task").order_of(data.classes, given=recipe.data.classes is not None)
    if order:
        console.print(order, markup=False)
    for description, images in data.value_ranges.items():
        console.print(f"values: {escape(description)} ({images:,} images)")
    arithmetic = f"{config.batch_size} a process x {processes} x {config.gradient_accumulation} accumulated"
    if plan.batches_per_step != processes * config.gradient_accumulation:
        arithmetic = f"{config.batch_size} x {plan.batches_per_step} micro-batches, as the run began"
    console.print(
        f"effective batch {plan.effective_batch} = {arithmetic}; {plan.steps_per_epoch} steps an epoch, "
        f"{plan.steps_per_epoch * config.epochs:,} in all"
    )
    head = config.head_learning_rate or config.learning_rate
    scaled = ""
    if plan.effective_batch != config.batch_size:
        factor = plan.effective_batch / config.batch_size
        scaled = (
            f"; not scaled with the effective batch: one that fits {config.batch_size} images, scaled linearly, "
            f"would be {config.learning_rate * factor:g} and {head * factor:g}"
        )
    console.print(f"peak learning rate {config.learning_rate:g}, head {head:g}{scaled}")
    _announce_oddities(data, recipe)


def _announce_oddities(data: DataSource, recipe: Recipe) -> None:
    """Say which splits were made, what was left out, and what is odd about the images."""
    warning = "[bold yellow]warning[/]: "
    if data.made:
        console.print(f"splits made here: {', '.join(data.made)} (data.split_seed {recipe.data.split_seed})")
    if data.left_out:
        console.print(f"left out: {escape(in_words(data.left_out))}")
    if data.skipped:
        console.print(f"{warning}{len(data.skipped)} unreadable images are left out")
    if data.duplicates:
        first = escape(" = ".join(data.duplicates[0]))
        removed = " and ".join(f"{count:,} from {split}" for split, count in data.removed.items())
        console.print(
            f"{warning}{len(data.duplicates):,} images stand in more than one split, such as {first}; one split keeps "
            f"them (test before validation before train), their copies are left out: {removed}"
        )
    if data.leaks:
        group, splits = next(iter(data.leaks.items()))
        console.print(
            f"{warning}{len(data.leaks):,} groups stand in more than one split, such as {escape(group)} in "
            f"{' and '.join(splits)}: test metrics would be of images half known. Leave the split folders out and have "
            "the toolkit split by group, unless the names mean others in each split"
        )
    if data.contradictions:
        first = escape(" = ".join(data.contradictions[0]))
        console.print(f"{warning}{len(data.contradictions):,} images have more than one label, such as {first}")
    for split, counts in data.counts().items() if data.target.several_in_one else ():
        absent = [name for name, images in counts.items() if not images]
        if absent:
            console.print(f"{warning}no image in {split} shows: {escape(', '.join(absent))}; means leave them out")
    for labels in similar_labels(data.classes):
        names = escape(" and ".join(map(repr, labels)))
        console.print(f"{warning}classes {names} differ only by case, blanks or Unicode form; are they one?")


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """A table of the splits' metrics, and the next command."""
    table = Table(title=f"best epoch {summary['best_epoch']} of {summary['epochs']}", title_justify="left")
    own = next((each for metric, each in SHOWN_INSTEAD.items() if metric in summary["test"]), SHOWN)
    shown = own | {name: heading for name, heading in SHOWN_IF_ORDERED.items() if name in summary["test"]}
    for heading in ("split", "images", *shown.values()):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("train", "validation", "test"):
        metrics = summary[split]
        cells = [f"{metrics[name]:.4f}" for name in shown]
        table.add_row(split, f"{metrics['images']:,}", *cells)
    console.print(table)
    if summary["temperature_note"]:
        console.print(f"calibration: {summary['temperature_note']}", markup=False)
    if summary["operating_point"]:
        console.print(f"operating point: {point_in_words(summary['operating_point'])}", markup=False)
    if summary["advice"]:
        console.print(f"time: {summary['advice']}", markup=False)
    console.print(f"run folder: {out}", markup=False)
    console.print(f"next: toolkit export --onnx {out} --out bundles/{out.name}", markup=False)


def point_in_words(point: dict[str, Any]) -> str:
    """An operating point of a summary in a sentence or two."""
    rates = ", ".join(f"{rate} {point['test'][rate]:.1%}" for rate in ("sensitivity", "specificity"))
    note = f"; {point['note']}" if point["note"] else ""
    return f"{point['class']} from a probability of {point['threshold']:.4f}; on the test split {rates}{note}"


def _precision(recipe: Recipe) -> str:
    return {"no": "fp32"}.get(recipe.training.mixed_precision, recipe.training.mixed_precision)
