"""``toolkit bench-latency``: latency and throughput of a bundle on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import (
    JsonFlag,
    ProviderOption,
    SignOption,
    ThreadsOption,
    advance_of,
    console,
    counting,
    messages,
    print_json,
    print_table,
    renew_signature,
    require_key,
)
from toolkit.errors import ToolkitError


def bench_latency(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precision of the graph to measure; the file then holds this one alone.",
            show_default="each that the provider runs",
        ),
    ] = None,
    provider: ProviderOption = "cpu",
    batch_sizes: Annotated[str, typer.Option(help="Images a run, comma-separated.")] = "1,8,32",
    compare: Annotated[
        str | None,
        typer.Option(
            help="Other engines to measure in alternation, of torch-eager,torch-compile; '' for none.",
            show_default="torch-eager where torch is installed",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs to count for each engine and batch size, at least.")] = 50,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to count for each engine and batch size, at least.")
    ] = 2.0,
    run: Annotated[Path | None, typer.Option(help="Run folder, if it is no longer where the export found it.")] = None,
    threads: ThreadsOption = None,
    sign: SignOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure p50, p90, p99 and throughput in alternating blocks; writes latency.json into the bundle.

    Example: toolkit bench-latency bundles/digits --batch-sizes 1,8,32 --compare torch-eager
    """
    from export.latency.benchmark import Compared, benchmark
    from export.latency.measure import Least
    from toolkit.runtime.bundle import Bundle

    names, sizes = _compared(compare), _numbers(batch_sizes)
    require_key(sign)
    opened = Bundle(bundle)
    with counting("measuring") as progress:
        latency = benchmark(
            opened,
            precision=precision,
            provider=provider,
            batch_sizes=sizes,
            compare=Compared(names, run),
            least=Least(runs, seconds),
            threads=threads,
            advance=advance_of(progress),
        )
    renew_signature(opened, sign)
    if json:
        print_json(latency)
        return
    print_latency(latency)
    if compare is None and not names:
        messages().print("torch is not installed, so ONNX Runtime was measured alone")
    console().print(f"written: {bundle / 'latency.json'}\nnext: toolkit predict {bundle} IMAGE...")


def print_latency(latency: dict[str, Any]) -> None:
    """The rows of ``latency.json`` as a table."""
    from toolkit.reporting.model_card import latency_cells, machine_line

    columns = ["engine", "on", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s"]
    rows = [[engine, f"{on} {precision}", *figures] for engine, on, precision, *figures in latency_cells(latency)]
    print_table(f"latency on {machine_line(latency)}", columns, rows, left=2)


def _compared(compare: str | None) -> list[str]:
    if compare is None:
        return ["torch-eager"] if find_spec("torch") else []
    return [name.strip() for name in compare.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ToolkitError(
            f"{text!r} is no list of numbers", where="--batch-sizes", fix="write it like 1,8,32"
        ) from None
