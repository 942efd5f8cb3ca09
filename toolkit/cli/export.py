"""``toolkit export``: a run becomes a bundle, proven."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import (
    DataOption,
    ForceFlag,
    JsonFlag,
    ProviderOption,
    SignOption,
    ThreadsOption,
    console,
    counting,
    describing,
    print_json,
    print_table,
    require_key,
    warn,
)
from toolkit.cli.parity import CountOption, print_parity, warn_of
from toolkit.errors import ToolkitError
from toolkit.user_paths import require_data, require_run

MAX_ACCURACY_DROP = 0.2


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="Run folder whose best checkpoint to export.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precisions of the graphs, comma-separated, the default first: fp32, fp16, bf16, int8; or auto, which "
            "measures every form that the provider runs well and ships the fastest within --max-accuracy-drop. "
            "A run with a trunk in a reduced precision is exported in that one alone.",
            show_default="fp32, or what the run's trunk was trained in",
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(min=0, help="With --precision auto: percentage points that may be lost.", show_default="0.2"),
    ] = None,
    input: Annotated[
        str,
        typer.Option(
            help="What the graph takes: image, uint8 \\[batch, height, width, 3] as decoded, of any size, "
            "or pixel_values, preprocessed outside."
        ),
    ] = "image",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    images: CountOption = None,
    data: DataOption = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training images that int8 and fp16 measure activations on; fewer than that are an error.",
            show_default="128, or all that there are",
        ),
    ] = None,
    sign: SignOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Fuse preprocessing, encoder and head into one ONNX graph, prove it against PyTorch, pack a bundle.

    Example: toolkit export --onnx runs/digits --out bundles/digits
    """
    require_key(sign)
    precisions, budget = _asked(precision, max_accuracy_drop, provider)
    require_run(onnx)
    require_data(data)
    from export.bundle import Wanted, export_bundle
    from export.graph.classifier_graph import check_input
    from toolkit.runs.finished_run import Run

    wanted = Wanted(check_input(input), precisions, budget, images, calibration_images)
    with counting("reading the run") as progress:
        parity = export_bundle(
            Run(onnx, data),
            out,
            wanted,
            provider=provider,
            threads=threads,
            sign=sign,
            force=force,
            report=describing(progress),
        )
    warn_of(parity)
    if budget is not None:
        _warn_of_too_few(parity["tried"], budget)
    if json:
        print_json({"bundle": str(out), "parity": parity})
        return
    if budget is not None:
        print_tried(parity, budget)
    print_parity(parity)
    console().print(f"bundle: {out}", f"next: toolkit bench-latency {out}", sep="\n")


def _asked(precision: str | None, drop: float | None, provider: str) -> tuple[Sequence[str], float | None]:
    """The precisions that are asked for, or the budget of a search for the best."""
    names = [] if precision is None else [name.strip() for name in precision.split(",") if name.strip()]
    if precision is not None and not names:
        raise ToolkitError("no precision is named", where="--precision", fix="write it like fp32,int8, or auto")
    if "auto" not in names:
        if drop is not None:
            fix = "add --precision auto, or leave it out"
            raise ToolkitError("a budget is for --precision auto", where="--max-accuracy-drop", fix=fix)
        from toolkit.runtime.session import require_precision

        return [require_precision(name, provider) for name in names], None
    if len(names) > 1:
        fix = "ask for auto alone, or name the precisions"
        raise ToolkitError("auto chooses the precision itself", where="--precision", fix=fix)
    return [], MAX_ACCURACY_DROP if drop is None else drop


def _warn_of_too_few(tried: Sequence[dict[str, Any]], budget: float) -> None:
    """Say which forms the validation images can't decide on, and what that meant."""
    from export.parity.agreement import too_few

    undecided = [each for each in tried if each["verdict"] == "undecided"]
    if not undecided:
        return
    fastest = min(undecided, key=lambda each: float(each["p50_ms"]))
    what = too_few(fastest["images"], budget, fastest["form"])
    chosen = any(each["chosen"] for each in undecided)
    then = "shipped all the same, since no form is sure to" if chosen else "so it was left out"
    ask = f"--max-accuracy-drop {math.ceil(10 * fastest['accuracy_drop_at_most']) / 10:g} would take it"
    warn(f"{what}: {then}" + ("" if chosen else f" ({ask})"))


def print_tried(parity: dict[str, Any], budget: float) -> None:
    """What ``--precision auto`` measured, a row a form."""
    from toolkit.reporting.model_card import tried_cells, tried_columns

    title = f"tried on {parity['tried'][0]['images']} validation images; budget {budget:g} percentage points"
    print_table(title, tried_columns(parity), tried_cells(parity))
