"""``toolkit evaluate``: what a bundle's graph gives on labelled images, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import (
    ForceFlag,
    JsonFlag,
    PrecisionOption,
    ServingProviderOption,
    console,
    counting,
    messages,
    print_json,
    print_table,
)
from toolkit.errors import CheckFailed, ToolkitError

if TYPE_CHECKING:
    from toolkit.evaluation.record import Evaluation

SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "expected_calibration_error": "calibration error",
    "nll": "NLL",
}
SHOWN_IF_ORDERED = {"mae": "MAE (classes)", "quadratic_kappa": "quadratic kappa", "spearman": "Spearman"}
SETS = {"accuracy": "all labels right", "average_precision": "mean average precision", "micro_f1": "micro F1"}
"""Where an image may have several labels."""
SHOWN_OF_NUMBERS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "spearman": "Spearman"}
LISTED = 5
"""Classes without an image that a line names."""


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    data: Annotated[
        Path,
        typer.Option(help="Labelled images: a folder, CSV or Parquet manifest, data set on disk, or folder of shards."),
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Keys of a recipe's section data.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, validation, test or all.", show_default="test; all where the data makes no splits"),
    ] = None,
    precision: PrecisionOption = None,
    provider: ServingProviderOption = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Share of right images, from 0 to 1; exit 1 below it.", show_default="none")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json, evaluation.html and plots.", show_default="none")
    ] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Measure a bundle's graph on labelled images, as production runs it; exit 1 below --min-accuracy.

    Metrics have 95 % intervals. Splits that the data lacks are made as the bundle's run made them.

    Example: toolkit evaluate bundles/digits --data datasets/digits --min-accuracy 0.95
    """
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ToolkitError(f"{min_accuracy:g} is no share", where="--min-accuracy", fix="give 0 to 1, such as 0.95")
    from toolkit.api import evaluate as measure

    with counting("reading images") as progress:
        found = measure(
            bundle,
            data=data,
            split=split,
            settings=settings or (),
            precision=precision,
            provider=provider,
            skip_bad=skip_bad,
            out=out,
            force=force,
            progress=progress,
        )
    for line in _remarks(found, chosen=split is not None):
        messages().print(line, soft_wrap=True, markup=False)
    if json:
        print_json(found.model_dump())
    else:
        _print_metrics(found)
        if out is not None:
            console().print(f"written: {out / 'evaluation.html'}", soft_wrap=True)
    if min_accuracy is not None and not hasattr(found, "accuracy"):
        what = "the bundle predicts a number, which has no accuracy"
        raise ToolkitError(what, where="--min-accuracy", fix="leave it out, and read mae or r2 of --json")
    if min_accuracy is not None and found.accuracy < min_accuracy:
        low, high = found.intervals["accuracy"]
        raise CheckFailed(
            f"{bundle}: accuracy {found.accuracy:.4f} on {found.images:,} images is below {min_accuracy:g} "
            f"(95 % interval {low:.4f} to {high:.4f})"
        )


def _remarks(found: Evaluation, *, chosen: bool) -> list[str]:
    """What a reader of the metrics must know, a line each."""
    remarks = []
    if found.split == "all" and not chosen:
        made = "--split test takes the split that the bundle's run would make of it"
        remarks.append(f"the data makes no splits: all {found.images:,} images are evaluated; {made}")
    if getattr(found, "absent_classes", None):
        names, more = ", ".join(found.absent_classes[:LISTED]), len(found.absent_classes) - LISTED
        remarks.append(f"no image of: {names}{f' and {more:,} more' if more > 0 else ''}; means leave them out")
    if found.skipped:
        first = found.skipped_images[0]
        remarks.append(f"left out: {found.skipped:,} unreadable images, such as {first['path']}: {first['reason']}")
    if found.truncated_texts:
        remarks.append(f"texts that lost their end: {found.truncated_texts:,} of {found.images:,}")
    return remarks


def _print_metrics(found: Evaluation) -> None:
    rows = []
    known = SHOWN | (SETS if hasattr(found, "micro_f1") else {}) | SHOWN_IF_ORDERED
    for name, shown in (SHOWN_OF_NUMBERS if hasattr(found, "rmse") else known).items():
        if not hasattr(found, name):
            continue
        value, ends = getattr(found, name), found.intervals[name]
        interval = "" if None in ends else "{:.4f} to {:.4f}".format(*ends)
        rows.append([shown, "-" if value is None else f"{value:.4f}", interval])
    if (point := getattr(found, "operating_point", None)) is not None:
        for rate, value in (("sensitivity", point.sensitivity), ("specificity", point.specificity)):
            low, high = point.intervals[rate]
            shown = f"{rate}, {point.label} from {point.threshold:.4f}"
            rows.append([shown, f"{value:.4f}", f"{low:.4f} to {high:.4f}"])
    which = "" if found.split == "all" else f"{found.split} "
    title = f"{found.precision} on {found.provider}, {found.images:,} {which}images of {found.data}"
    print_table(title, ["metric", "value", "95 % interval"], rows)
