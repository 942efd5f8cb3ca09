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
    SignOption,
    ThreadsOption,
    console,
    counting,
    print_json,
    print_table,
    require_key,
    warn,
)
from toolkit.cli.parity import CountOption, print_parity, warn_of
from toolkit.user_paths import require_data, require_run


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="Run folder whose best checkpoint to export.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precisions of the graphs, comma-separated, the default first: fp32, fp16, bf16, int8; or auto, which "
            "measures every config that the provider runs well and ships the fastest within --max-accuracy-drop. "
            "A run with a trunk in a reduced precision is exported in that one alone.",
            show_default="fp32, or what the run's trunk was trained in",
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --precision auto: percentage points that may be lost.",
            show_default="0.2, or what --max-flips says",
        ),
    ] = None,
    max_flips: Annotated[
        float | None,
        typer.Option(
            help="With --precision auto: percent of images that may be decided otherwise than PyTorch decides, shown "
            "on validation images and held to test images; if nothing keeps that, nothing is written.",
            show_default=False,
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            help="With --precision auto: times as fast as the fp32 graph at batch 1, such as 2.5; if nothing is, "
            "nothing is written.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            help="What the graph takes: image, uint8 \\[batch, height, width, 3] as decoded, of any size, "
            "or pixel_values, preprocessed outside.",
            show_default="image; for openvino pixel_values",
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            help="Execution provider: cpu, cuda, tensorrt or openvino; with --precision auto also cpu,openvino, of "
            "which the faster is chosen."
        ),
    ] = "cpu",
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
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Have the graphs also give the embedding \\[batch, P], at length one.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(help="Write a Triton model repository of the bundle too, into this folder; see toolkit triton."),
    ] = None,
    sign: SignOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Fuse preprocessing, encoder and head into one ONNX graph, prove it against PyTorch, pack a bundle.

    Example: toolkit export --onnx runs/digits --out bundles/digits
    """
    from toolkit.api import contract_asked_for, precisions_asked_for
    from toolkit.api import export as export_bundle
    from toolkit.reporting.contract_lines import contract_lines

    require_key(sign)
    _, budget = precisions_asked_for(precision, max_accuracy_drop, provider)
    contract = contract_asked_for(precision, max_accuracy_drop, max_flips, min_speedup)
    require_run(onnx)
    require_data(data)
    with counting("reading the run") as progress:
        bundle = export_bundle(
            onnx,
            out=out,
            precision=precision,
            max_accuracy_drop=max_accuracy_drop,
            max_flips=max_flips,
            min_speedup=min_speedup,
            input=input,  # type: ignore[arg-type]
            provider=provider,
            threads=threads,
            images=images,
            calibration_images=calibration_images,
            embedding=embedding,
            data=data,
            triton=triton,
            sign=sign,
            force=force,
            progress=progress,
        )
    parity = bundle.parity
    warn_of(parity)
    if contract is not None and parity["contract"]["too_few_images"]:
        warn(parity["contract"]["too_few_images"])
    elif contract is None and budget is not None:
        _warn_of_too_few(parity["tried"], budget)
    if json:
        print_json({"bundle": str(out), "parity": parity} | ({"triton": str(triton)} if triton else {}))
        return
    if budget is not None:
        print_tried(parity, contract.in_words() if contract else f"budget {budget:g} percentage points")
    print_parity(parity)
    made_for = "" if parity["provider"] == "cpu" else f" --provider {parity['provider']}"
    lines = [*contract_lines(parity), f"bundle: {out}", f"next: toolkit bench-latency {out}{made_for}"]
    if "," in provider:
        lines.insert(-2, f"chosen on {parity['provider']}, of {provider}")
    if triton:
        lines[-1:-1] = [
            f"repository: {triton}, not tuned; after toolkit tune: toolkit triton {out} --out {triton} --force"
        ]
    console().print(*lines, sep="\n", soft_wrap=True)


def _warn_of_too_few(tried: Sequence[dict[str, Any]], budget: float) -> None:
    """Say which configs the validation images can't decide on, and what that meant."""
    from export.parity.agreement import too_few
    from export.selection.candidate import named

    undecided = [each for each in tried if each["verdict"] == "undecided"]
    if not undecided:
        return
    fastest = min(undecided, key=lambda each: float(each["p50_ms"]))
    what = too_few(fastest["images"], budget, named(fastest))
    chosen = any(each["chosen"] for each in undecided)
    then = "shipped all the same, since no config is sure to" if chosen else "so it was left out"
    ask = f"--max-accuracy-drop {math.ceil(10 * fastest['accuracy_drop_at_most']) / 10:g} would take it"
    warn(f"{what}: {then}" + ("" if chosen else f" ({ask})"))


def print_tried(parity: dict[str, Any], asked: str) -> None:
    """What ``--precision auto`` measured, a row a config."""
    from toolkit.reporting.model_card import tried_cells, tried_columns

    title = f"tried on {parity['tried'][0]['images']} validation images; {asked}"
    print_table(title, tried_columns(parity), tried_cells(parity))
