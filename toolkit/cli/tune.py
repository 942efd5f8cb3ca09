"""``toolkit tune``: a latency and an accuracy budget become a configuration, written into the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import (
    DataOption,
    JsonFlag,
    OutFileOption,
    SignOption,
    console,
    counting,
    print_json,
    print_table,
    require_signable,
    warn,
    warn_of_signature,
)
from toolkit.errors import ToolkitError
from toolkit.user_paths import require_data, require_run


def tune(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="Milliseconds that p99 of a request may take.")],
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, help="Percentage points of accuracy on held-out images that may be lost.")
    ] = 0.2,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Images a second that arrive at random; p99 then includes their waiting.", show_default="none"
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            help="Execution provider: cpu, cuda, tensorrt or openvino; or cpu,openvino, of which the best is chosen."
        ),
    ] = "cpu",
    run: Annotated[Path | None, typer.Option(help="Run folder, if it is no longer where the export found it.")] = None,
    data: DataOption = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images to measure latency on.", show_default="held-out images, or the golden ones"
        ),
    ] = None,
    reduced_jpeg: Annotated[
        bool,
        typer.Option(
            "--reduced-jpeg",
            help="Decode JPEGs at the scale that the network needs, where 598 or more of --images, or of the "
            "validation split, show with 95 % confidence that at least 99.5 % of decisions stay the same.",
        ),
    ] = False,
    out: OutFileOption = None,
    sign: SignOption = None,
    json: JsonFlag = False,
) -> None:
    """Search precision, batch size, sessions and threads; write the fastest that keeps both budgets to serving.json.

    predict, verify and bench-latency then use it. Exit 1 if nothing fits, with what comes nearest.

    Example: toolkit tune bundles/digits --p99-ms 20 --max-accuracy-drop 0.2
    """
    for name, value in (("--p99-ms", p99_ms), ("--rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise ToolkitError(f"a budget of {value:g} can't be kept", where=name, fix="give more than 0")
    if not 0 <= max_accuracy_drop < float("inf"):
        what = f"a budget of {max_accuracy_drop:g} points can't be kept"
        raise ToolkitError(what, where="--max-accuracy-drop", fix="give 0 or more")
    require_signable(sign, out=out)
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.image_files import require_images
    from toolkit.runtime.serving import Budget

    opened = Bundle(bundle)
    if run is not None or data is not None:
        require_run(run or opened.run, of_bundle=run is None)
        require_data(data)
    require_images(images)
    from export.change import Target
    from export.latency.tuning.tune_bundle import Sources, tune_bundle
    from export.parity.agreement import too_few, verdict

    budget = Budget(p99_ms=p99_ms, max_accuracy_drop=max_accuracy_drop, rate=rate)
    with counting("measuring accuracy") as progress:
        outcome = tune_bundle(
            opened,
            budget,
            provider=provider,
            sources=Sources(run, data, images),
            reduced_jpeg=reduced_jpeg,
            to=Target(out, sign),
            progress=progress,
        )
    warn_of_signature(opened)
    for name, drop in outcome["accuracy"].items():
        precision, _, runtime = name.partition(" on ")
        if verdict(precision, drop["points"], drop["at_most"], max_accuracy_drop) == "undecided":
            what = too_few(drop["images"], max_accuracy_drop, name)
            shipped = outcome["chosen"]["precision"] == precision and runtime in ("", outcome["chosen"]["provider"])
            then = "chosen all the same, since no other precision is sure to" if shipped else "so it was left out"
            warn(f"{what}: {then}")
    for sentence in outcome["disturbances"]:
        warn(f"{sentence} meanwhile: without that, a faster configuration might keep the budget")
    if json:
        print_json(outcome)
        return
    print_tuned(outcome)
    console().print(f"written: {out or bundle / 'serving.json'}", f"next: toolkit bench-latency {bundle}", sep="\n")


def print_tuned(outcome: dict[str, Any]) -> None:
    """The Pareto-optimal configurations and the finalists as a table."""
    columns = ["precision", "batch", "threads", "p50 ms", "p99 ms", "up to", "images/s", "points lost", ""]
    several = len({row["provider"] for row in outcome["tried"]}) > 1
    rows = []
    for row in outcome["tried"]:
        if not (row["pareto"] or row["finalist"]):
            continue
        verdict = (
            "chosen" if row["chosen"] else "fits" if row["within_budget"] else "too slow" if row["finalist"] else ""
        )
        rows.append(
            [
                f"{row['precision']} on {row['provider']}" if several else row["precision"],
                str(row["batch_size"]),
                f"{row['sessions']} x {row['threads']}{'' if row['allow_spinning'] else ' asleep'}",
                *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "p99_ms_at_most")),
                f"{row['throughput_ips']:.0f}",
                f"{row['accuracy_drop']:+.2f}",
                verdict,
            ]
        )
    for precision, drop in outcome["accuracy"].items():
        low, high = drop["interval"]
        lost = f"{precision} loses {drop['points']:+.2f} percentage points ({low:+.2f} to {high:+.2f})"
        lost += f", at most {drop['at_most']:.2f} with 95 % confidence,"
        console().print(f"{lost} on {drop['source']}", soft_wrap=True)
    budget = outcome["budget"]
    rate = f" at {budget['rate']:g} requests/s" if budget["rate"] else ""
    title = f"p99 within {budget['p99_ms']:g} ms{rate}, at most {budget['max_accuracy_drop']:g} points lost"
    print_table(title, columns, rows)
    reduced = outcome["chosen"]["reduced_jpeg"]
    if reduced:
        said = f"JPEGs decoded smaller: a request {reduced['full_ms']:.1f} -> {reduced['reduced_ms']:.1f} ms; "
        said += f"{reduced['flip_count']} of {reduced['images']:,} decisions differ ({reduced['source']})"
        console().print(said, soft_wrap=True)
    files_ips = outcome["chosen"]["expected"]["files_ips"]
    console().print(f"toolkit predict gives {files_ips:.0f} files/s with these settings, decoding included")
